"""Scores as rows, tables, ``results.json`` and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.metrics import Scores

Row = dict[str, Any]

SHOWN = ("rank1", "rank1_nd", "mAP", "mAP_nd")  # the paper's columns
HEADERS = {"rank1": "Rank-1", "rank1_nd": "Rank-1-nd", "mAP": "mAP", "mAP_nd": "mAP-nd"}


def _number(value: float) -> float | None:
    """JSON has no NaN: a score without a single query becomes null."""
    return None if math.isnan(value) else float(value)


def score_row(
    variant: str, scores: Mapping[str, Scores], ranks: Sequence[int] = (1, 5, 10, 20)
) -> Row:
    """One row of ``results.json``: fractions for every protocol, ``nd`` ones with a suffix.

    Rank-1 is always in it; ``queries`` counts all of them, the dropped ones included.
    """
    row: Row = {"variant": variant}
    for protocol, result in scores.items():
        suffix = "" if protocol == "market" else f"_{protocol}"
        for rank in dict.fromkeys((1, *ranks)):
            row[f"rank{rank}{suffix}"] = _number(result.rank(rank))
        row[f"mAP{suffix}"] = _number(result.mAP)
        row[f"mAP{suffix}_trapezoid"] = _number(result.mAP_trapezoid)
        row[f"dropped_queries{suffix}"] = int(result.dropped_queries)
        row["queries"] = int(result.queries + result.dropped_queries)
    return row


def _cell(value: float | None, base: float | None, gain: bool) -> str:
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text if not gain or base is None else f"{text} ({value - base:+.3f})"


def score_table(rows: Sequence[Row], columns: Sequence[str] = SHOWN, style: str = "simple") -> str:
    """The rows as the paper prints them, with the gain over the baseline in brackets.

    Args:
        rows: of :func:`score_row`; a row named ``baseline`` is what gains are measured against.
        columns: keys of a row.
        style: a ``tabulate`` format, for example ``simple`` or ``github``.
    """
    base = next((row for row in rows if row["variant"] == "baseline"), {})
    body = [
        [row["variant"]]
        + [_cell(row.get(c), base.get(c), row["variant"] != "baseline") for c in columns]
        for row in rows
    ]
    headers = ["Model", *(HEADERS.get(column, column) for column in columns)]
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))


def dropped_note(rows: Sequence[Row]) -> str:
    """A sentence on queries that a protocol could not score, or an empty string."""
    row = rows[0] if rows else {}
    names = {"dropped_queries": "the Market protocol", "dropped_queries_nd": "-nd"}
    dropped = {name: row[key] for key, name in names.items() if row.get(key) is not None}
    if not any(dropped.values()):
        return ""
    counts = " and ".join(f"{count} under {name}" for name, count in dropped.items())
    return (
        f"Of {row.get('queries', 0)} queries, {counts} have no match in the gallery on another "
        "camera; they are left out of the averages."
    )


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically (temporary name, then rename).

    File names that are not UTF-8 get escapes such as ``\\udcff``, which JSON reads back.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_results(path: str | Path, target: str, rows: Sequence[Row], **more: Any) -> None:
    """Writes ``results.json``: ``{"target": …, "rows": […]}`` and whatever ``more`` says."""
    content = {"target": target, "rows": list(rows), **more}
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def kept_rows(
    path: str | Path, target: str, about: Mapping[str, Any], new: Collection[str]
) -> list[Row]:
    """Rows of an earlier ``results.json`` that a run with fewer variants does not replace.

    Args:
        path: of the file; none, or a damaged one, keeps nothing.
        target, about: what both runs must share.
        new: variants that the new run has scored.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        same = content["target"] == target and all(content[k] == v for k, v in about.items())
        return [row for row in content["rows"] if same and row["variant"] not in new]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def plot_scores(path: str | Path, target: str, rows: Sequence[Row]) -> None:
    """A bar chart of the paper's four scores for each variant, as PNG."""
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's choice

    figure = Figure(figsize=(max(4.8, 1.5 + 1.3 * len(rows)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(SHOWN)
    for number, column in enumerate(SHOWN):
        heights = [row.get(column) or 0.0 for row in rows]
        places = [place + (number - 1.5) * width for place in range(len(rows))]
        bars = axes.bar(places, heights, width, label=HEADERS[column])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(range(len(rows)), [row["variant"] for row in rows])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("score")
    axes.set_title(f"target {target}, without its labels")
    figure.legend(ncols=4, fontsize=8, loc="outside lower center", frameon=False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)
