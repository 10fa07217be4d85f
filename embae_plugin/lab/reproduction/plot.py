"""The tables as a picture: ours as bars with their spread, the published numbers as marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.score_table import HEADERS
from embae_plugin.lab.reproduction.render import heading
from embae_plugin.lab.reproduction.tables import Cell, TableResult


def plot_tables(path: str | Path, tables: Sequence[TableResult]) -> None:
    """One strip of panels for each table that has scores, one panel for each score, as PNG."""
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's choice

    shown = [table for table in tables if table.seeds]
    if not shown:
        return
    heights = [0.9 + 0.34 * len(table.rows) for table in shown]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    strips = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, table in zip(strips, shown, strict=True):
        strip.suptitle(heading(table), fontsize=10, x=0.01, ha="left")
        columns = list(zip(*table.rows, strict=True))
        panels = strip.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        marks: dict[str, Any] = {}  # what any of the panels shows, once
        for axes, cells in zip(panels, columns, strict=True):
            _panel(axes, cells)
            handles, labels = axes.get_legend_handles_labels()
            marks.update(zip(labels, handles, strict=True))
        strip.legend(marks.values(), marks.keys(), fontsize=7, loc="upper right", ncols=3)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=130)


def _panel(axes: Any, cells: Sequence[Cell]) -> None:
    axes.barh(
        range(len(cells)), [cell.ours or 0.0 for cell in cells], 0.6, color="tab:blue",
        xerr=[cell.spread or 0.0 for cell in cells], error_kw={"elinewidth": 1, "capsize": 2},
        label="ours, mean ± spread",
    )
    # A hollow mark is another method's or other data's number: for reference, not to be matched.
    for same, name in ((True, "published"), (False, "published (not comparable)")):
        marks = [(cell.published, place) for place, cell in enumerate(cells)
                 if cell.published is not None and cell.comparable == same]
        if marks:
            axes.scatter(*zip(*marks, strict=True), marker="D", s=22, edgecolors="black", zorder=3,
                         facecolors="black" if same else "white", label=name)
    axes.set_yticks(range(len(cells)), [cell.model for cell in cells], fontsize=8)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlim(0, max([0.1, *(1.15 * v for c in cells for v in (c.ours, c.published) if v)]))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(HEADERS[cells[0].score], fontsize=9)
