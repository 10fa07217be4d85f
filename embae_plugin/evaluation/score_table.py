"""Scores as rows, tables, ``results.json`` and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.metrics import Scores

Row = dict[str, Any]

HEADERS = {"rank1": "Rank-1", "rank1_nd": "Rank-1-nd", "mAP": "mAP", "mAP_nd": "mAP-nd"}
SHOWN = tuple(HEADERS)  # the paper's columns


def score_row(
    variant: str, scores: Mapping[str, Scores], ranks: Sequence[int] = (1, 5, 10, 20)
) -> Row:
    """One row of ``results.json``: fractions for every protocol, ``nd`` ones with a suffix.

    Rank-1 is always in it; ``queries`` counts all of them, the dropped ones included. JSON has
    no NaN: a score without a single query is None.
    """
    row: Row = {"variant": variant}
    for protocol, result in scores.items():
        suffix = "" if protocol == "market" else f"_{protocol}"
        row |= {f"rank{rank}{suffix}": result.rank(rank) for rank in dict.fromkeys((1, *ranks))}
        row |= {f"mAP{suffix}": result.mAP, f"mAP{suffix}_trapezoid": result.mAP_trapezoid,
                f"dropped_queries{suffix}": result.dropped_queries,
                "queries": result.queries + result.dropped_queries}
    return {key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in row.items()}


def score_table(rows: Sequence[Row]) -> str:
    """The rows as the paper prints them, with the gain over the row ``baseline`` in brackets."""
    base = next((row for row in rows if row["variant"] == "baseline"), {})

    def cell(row: Row, column: str) -> str:
        value, start = row.get(column), base.get(column)
        if value is None:
            return "–"
        gain = "" if row["variant"] == "baseline" or start is None else f" ({value - start:+.3f})"
        return f"{value:.3f}{gain}"

    body = [[row["variant"], *(cell(row, column) for column in SHOWN)] for row in rows]
    return str(tabulate(body, ["Model", *HEADERS.values()], disable_numparse=True))


def dropped_note(rows: Sequence[Row]) -> str:
    """A sentence on queries that a protocol could not score, or an empty string."""
    row = rows[0] if rows else {}
    names = {"dropped_queries": "the Market protocol", "dropped_queries_nd": "-nd"}
    if not any(row.get(key) for key in names):
        return ""
    counts = " and ".join(f"{row[key]} under {name}" for key, name in names.items() if key in row)
    return (f"Of {row['queries']} queries, {counts} have no match in the gallery on another "
            "camera; they are left out of the averages.")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically (temporary name, then rename).

    File names that are not UTF-8 get escapes such as ``\\udcff``, which JSON reads back.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_results(path: str | Path, target: str, rows: Sequence[Row], **more: object) -> None:
    """Writes ``results.json``: ``{"target": …, "rows": […]}`` and whatever ``more`` says."""
    content = {"target": target, "rows": list(rows), **more}
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def kept_rows(
    path: str | Path, target: str, about: Mapping[str, object], new: Collection[str]
) -> list[Row]:
    """Rows of an earlier ``results.json`` that a run with the variants ``new`` doesn't replace.

    Both runs must share ``target`` and ``about``; no file, or a damaged one, keeps nothing.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        same = content["target"] == target and all(content[k] == v for k, v in about.items())
        return [row for row in content["rows"] if same and row["variant"] not in new]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def plot_scores(path: str | Path, target: str, rows: Sequence[Row]) -> None:
    """A bar chart of the paper's four scores for each variant, as PNG."""
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's choice

    figure = Figure(figsize=(max(4.8, 1.5 + 1.3 * len(rows)), 4.2), layout="constrained")
    axes, places, width = figure.subplots(), np.arange(len(rows)), 0.8 / len(SHOWN)
    for number, column in enumerate(SHOWN):
        heights = [row.get(column) or 0.0 for row in rows]
        bars = axes.bar(places + (number - 1.5) * width, heights, width, label=HEADERS[column])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(places, [row["variant"] for row in rows])
    axes.set(ylim=(0, 1.05), ylabel="score", title=f"target {target}, without its labels")
    figure.legend(ncols=4, fontsize=8, loc="outside lower center", frameon=False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)
