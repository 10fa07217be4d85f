"""Accuracy and reconstruction loss against the epochs of adaptation.

Drawn from the target's labels, for whoever has them: nothing is selected by these curves.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.score_table import HEADERS, Row

COLUMNS = ("rank1", "mAP", "reconstruction")


def adaptation_curves(history: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The scored epochs of each variant, from the histories of a run's stages."""
    curves = {
        stage.removeprefix("transfer-"): [row for row in rows if "mAP" in row]
        for stage, rows in history.items()
        if stage.startswith("transfer-")
    }
    return {name: rows for name, rows in curves.items() if rows}


def plot_curves(
    path: str | Path, history: Mapping[str, Sequence[Row]], baseline: Row | None = None
) -> bool:
    """Writes a PNG with one line for each variant.

    Args:
        path: of the PNG.
        history: rows of each stage, as an engine's ``run`` returns them with ``eval_freq`` set.
        baseline: a row of scores, drawn as a level line.

    Returns:
        whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    curves = adaptation_curves(history)
    if not curves:
        return False
    figure = Figure(figsize=(13, 4), layout="constrained")
    for column, axes in zip(COLUMNS, figure.subplots(1, len(COLUMNS)), strict=True):
        for name, rows in curves.items():
            axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], label=name)
        if baseline is not None and baseline.get(column) is not None:
            axes.axhline(baseline[column], color="grey", linestyle=":", label="baseline")
        axes.set_xlabel("epoch of adaptation")
        axes.set_title(HEADERS.get(column, "reconstruction loss"))
        axes.legend(fontsize=8)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


Point = tuple[int, float, float]  # epoch, mean over the runs, spread


def mean_curve(
    curves: Sequence[Sequence[Row]], column: str, starts: Sequence[float | None] = ()
) -> list[Point]:
    """Mean and sample standard deviation over the runs at each epoch that all of them scored.

    Args:
        curves: the scored epochs of one variant, of each run.
        starts: each run's score before the first epoch, the baseline's. With all of them known,
            the curve is of the gain over them, from 0 at epoch 0: what the runs' baselines differ
            by would hide what adaptation does.
    """
    tables = [{int(row["epoch"]): float(row[column]) for row in curve} for curve in curves]
    known = [start for start in starts if start is not None]
    if tables and len(known) == len(tables):
        tables = [
            {0: 0.0, **{epoch: value - start for epoch, value in table.items()}}
            for table, start in zip(tables, known, strict=True)
        ]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    points = []
    for epoch in shared:
        values = [table[epoch] for table in tables]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        points.append((epoch, statistics.fmean(values), spread))
    return points


def plot_mean_curves(
    path: str | Path,
    histories: Sequence[Mapping[str, Sequence[Row]]],
    baselines: Sequence[Row] = (),
    title: str = "",
) -> bool:
    """Writes a PNG with each variant's mean over several runs, and a band of ± the spread.

    Scores are drawn as the gain over each run's own baseline, where there is one.

    Args:
        path: of the PNG.
        histories: of each run, variant to scored epochs (:func:`adaptation_curves`).
        baselines: each run's row of scores without adaptation.
        title: over the plots.

    Returns:
        whether there was anything to draw: a variant that every run has curves of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = [name for name in (histories[0] if histories else ())
             if all(name in history for history in histories)]  # fmt: skip
    if not names:
        return False
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for column, axes in zip(COLUMNS, figure.subplots(1, len(COLUMNS)), strict=True):
        starts = [row.get(column) for row in baselines]
        for name in names:
            _band(axes, name, mean_curve([h[name] for h in histories], column, starts))
        heading = HEADERS.get(column, "reconstruction loss")
        if starts and None not in starts:
            axes.axhline(0.0, color="grey", linestyle=":", label="baseline")
            heading += ": gain over the baseline"
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch of adaptation")
        axes.set_title(heading)
        axes.legend(fontsize=8)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


def _band(axes: Any, name: str, points: Sequence[Point]) -> None:
    if not points:
        return
    epochs, means, spreads = zip(*points, strict=True)
    (line,) = axes.plot(epochs, means, label=name)
    low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
