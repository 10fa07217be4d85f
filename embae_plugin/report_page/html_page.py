"""From content to the HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from embae_plugin.evaluation.protocols import PROTOCOLS
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.evaluation.thumbnails import jpeg_address
from embae_plugin.report_page import figures
from embae_plugin.report_page.content import Content
from embae_plugin.report_page.pairing import Floats
from embae_plugin.report_page.projection import NAMES

PROTOCOL_NAMES = {"market": "Market-1501 protocol", "nd": "-nd protocol"}
SIGNS = {"right": "✓", "wrong": "✗", "ignored": "–", "kept": "=", "new": "+"}  # of verdicts
PICTURE = (64, 128)


def write_page(path: str | Path, content: Content) -> None:
    """Writes the page atomically; OSError if it cannot be written."""
    write_text(path, render(content))


def render(content: Content) -> str:
    """The page; the same text for the same content. All names and paths are escaped."""
    from embae_plugin import __version__

    pair = content.pair
    environment = Environment(
        loader=PackageLoader("embae_plugin.report_page"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters.update(number=_number, signed=_signed, percent=_percent)
    shown = {row for group in content.groups for one in group.lists
             for row in (one.query, *(entry.row for entry in (*one.before, *one.after)))}
    pictures = {row: jpeg_address(Path(pair.root) / pair.paths[row], *PICTURE)
                for row in shown}

    def who(row: int) -> str:
        code = int(pair.pids[row])
        return f"person {pair.pid_names[code]}, " if code >= 0 else ""

    return environment.get_template("report.html").render(
        c=content, pair=pair, settings=content.settings, version=__version__,
        facts=_facts(content), maps=_maps(content), map_name=NAMES[content.settings.map_method],
        histograms=[_histogram(*one) for one in content.distances.items() if one[1]],
        cmc_figure=figures.cmc_figure, pictures=pictures, who=who,
        missing=sum(not picture for picture in pictures.values()),
        protocols=PROTOCOLS, protocol_names=PROTOCOL_NAMES, signs=SIGNS,
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    if np.isnan(value):
        return "–"
    text = f"{value:+.3f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


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


def _maps(content: Content) -> list[dict[str, object]]:
    """One row of maps for each colouring: title, legend and the plots before and after."""
    drawn, pair = content.map, content.pair
    colourings = {"camera": (pair.cameras[drawn.rows], list(pair.camera_names))}
    if len(drawn.people):
        place = {code: n for n, code in enumerate(drawn.people.tolist())}
        groups = np.array([place.get(code, -1) for code in pair.pids[drawn.rows].tolist()])
        colourings["identity"] = groups, [f"person {pair.pid_names[code]}" for code in place]
    return [
        {
            "title": f"Coloured by {key}",
            "legend": [(*figures.style(n)[::2], name) for n, name in enumerate(names)],
            "others": bool((groups < 0).any()),
            "plots": {
                when: figures.scatter_figure(f"map-{key}-{when}", points, groups, len(names))
                for when, points in (("before", drawn.before), ("after", drawn.after))
            },
        }
        for key, (groups, names) in colourings.items()
    ]


def _histogram(when: str, groups: Mapping[str, Floats]) -> dict[str, object]:
    """The plot, its numbers, and how often a pair of the first group is the nearer one."""
    rows = [(name, len(values), float(values.mean()), float(np.median(values)))
            for name, values in groups.items()]
    overlap = None
    if len(groups) == 2:
        near, far = (np.sort(values) for values in groups.values())
        below, upto = (np.searchsorted(far, near, side=side).sum() for side in ("left", "right"))
        overlap = 1 - float(below + upto) / 2 / (len(near) * len(far))  # ties count half
    return {"when": when, "svg": figures.histogram_figure(f"distances-{when}", groups),
            "rows": rows, "overlap": overlap}
