"""From content to the HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from embae_plugin.evaluation.protocols import PROTOCOLS
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.report_page import figures
from embae_plugin.report_page.content import Content
from embae_plugin.report_page.crop_pictures import Thumbnails
from embae_plugin.report_page.projection import NAMES
from embae_plugin.report_page.retrieval import Entry
from embae_plugin.report_page.selection import Ranked

PROTOCOL_NAMES = {"market": "Market-1501 protocol", "nd": "-nd protocol"}
VERDICTS = {
    "right": ("✓", "right"),
    "wrong": ("✗", "wrong"),
    "ignored": ("–", "ignored"),
    "kept": ("=", "kept"),
    "new": ("+", "new"),
}


def write_page(path: str | Path, content: Content) -> None:
    """Writes the page atomically.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, render(content))


def render(content: Content) -> str:
    """The page; the same text for the same content. All names and paths are escaped."""
    from embae_plugin import __version__

    package = PackageLoader("embae_plugin.report_page")
    environment = Environment(
        loader=package, autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=_number, signed=_signed, percent=_percent)
    thumbnails = Thumbnails(content.pair.root)
    groups = [
        {"title": group.title, "explanation": group.explanation,
         "lists": [_list_view(content, one, thumbnails) for one in group.lists]}
        for group in content.groups
    ]  # fmt: skip
    return environment.get_template("report.html").render(
        c=content, pair=content.pair, settings=content.settings, version=__version__,
        facts=_facts(content), curves=_curves(content), maps=_maps(content),
        map_name=NAMES[content.map.method] if content.map else "",
        histograms=_histograms(content), groups=groups, missing=len(thumbnails.missing),
        shown=len(thumbnails.missing) + thumbnails.count, protocols=PROTOCOLS,
        protocol_names=PROTOCOL_NAMES, verdicts=VERDICTS,
    )  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    if value is None or np.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def _facts(content: Content) -> dict[str, str]:
    """What the page is about, for its head."""
    pair = content.pair
    facts = {"crops": f"{len(pair):,}", "cameras": f"{len(pair.camera_names)}"}
    if pair.pid_names:
        facts["identities"] = f"{len(pair.pid_names):,}"
    for when, about in zip(("before", "after"), pair.about, strict=True):
        if about.get("model"):
            facts[f"model {when}"] = str(about["model"])
    return facts


def _curves(content: Content) -> list[dict[str, Any]]:
    return [
        {
            "protocol": name,
            "svg": Markup(figures.cmc_figure(f"cmc-{name}", old.cmc, new.cmc)),
            "rows": [(k, old.rank(k), new.rank(k)) for k in (1, 2, 5, 10, 20)],
            "queries": new.queries,
            "dropped": new.dropped_queries,
        }
        for name, (old, new) in content.curves.items()
    ]


def _maps(content: Content) -> list[dict[str, Any]]:
    """One row of maps for each colouring: title, legend and the plots before and after."""
    drawn, pair = content.map, content.pair
    if drawn is None:
        return []
    colourings: list[tuple[str, str, np.ndarray, list[str]]] = [
        ("camera", "Coloured by camera", pair.cameras[drawn.rows], list(pair.camera_names))
    ]
    if len(drawn.people):
        place = {code: n for n, code in enumerate(drawn.people.tolist())}
        groups = np.array([place.get(code, -1) for code in pair.pids[drawn.rows].tolist()])
        names = [f"person {pair.pid_names[code]}" for code in drawn.people.tolist()]
        colourings.append(("identity", "Coloured by identity", groups, names))
    return [
        {
            "key": key,
            "title": title,
            "legend": [(*figures.style(n)[::2], name) for n, name in enumerate(names)],
            "others": bool((groups < 0).any()),
            "plots": [
                (when, Markup(figures.scatter_figure(f"map-{key}-{when}", points, groups,
                                                     len(names))))
                for when, points in (("before", drawn.before), ("after", drawn.after))
            ],
        }
        for key, title, groups, names in colourings
    ]  # fmt: skip


def _histograms(content: Content) -> list[dict[str, Any]]:
    both: Mapping[str, Mapping[str, np.ndarray]] = content.distances
    shown = []
    for when, groups in both.items():
        if not groups:
            continue
        top = max(float(values.max()) for values in groups.values())
        svg = figures.histogram_figure(f"distances-{when}", list(groups.items()), (0, top or 1.0))
        rows = [
            (name, len(values), float(values.mean()), float(np.median(values)))
            for name, values in groups.items()
        ]
        shown.append({"when": when, "svg": Markup(svg), "rows": rows, "overlap": _overlap(groups)})
    return shown


def _overlap(groups: Mapping[str, np.ndarray]) -> float | None:
    """How often a pair of the first group is nearer than one of the second (ties count half)."""
    if len(groups) != 2:
        return None
    near, far = (np.sort(values) for values in groups.values())
    below = np.searchsorted(far, near, side="left").sum()
    equal = np.searchsorted(far, near, side="right").sum() - below
    return 1 - float(below + equal / 2) / (len(near) * len(far))


def _list_view(content: Content, one: Ranked, thumbnails: Thumbnails) -> dict[str, Any]:
    pair = content.pair

    def who(row: int) -> str:
        code = int(pair.pids[row])
        return f"person {pair.pid_names[code]}, " if code >= 0 else ""

    def crop(row: int) -> dict[str, str]:
        path, camera = pair.paths[row], pair.camera_names[int(pair.cameras[row])]
        return {"uri": thumbnails.uri(path), "path": path, "camera": camera, "who": who(row)}

    def places(entries: list[Entry]) -> list[dict[str, Any]]:
        return [
            {**crop(e.row), "rank": n, "distance": e.distance, "verdict": e.verdict}
            for n, e in enumerate(entries, 1)
        ]

    return {
        "query": crop(one.query),
        "sides": [("before", places(one.before), one.note_before),
                  ("after", places(one.after), one.note_after)],
    }  # fmt: skip
