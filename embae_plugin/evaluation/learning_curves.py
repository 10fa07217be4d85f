"""Accuracy and reconstruction loss against the epochs of adaptation.

Drawn from the target's labels, for whoever has them: nothing is selected by these curves.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.score_table import HEADERS, Row

COLUMNS = ("rank1", "mAP", "reconstruction")


def adaptation_curves(history: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The scored epochs of each variant, from the histories of a run's stages."""
    curves = {stage.removeprefix("transfer-"): [row for row in rows if "mAP" in row]
              for stage, rows in history.items() if stage.startswith("transfer-")}
    return {name: rows for name, rows in curves.items() if rows}


def mean_curve(
    curves: Sequence[Sequence[Row]], column: str, starts: Sequence[float] = ()
) -> NDArray[np.float64]:
    """(3, E) epochs that all runs scored, with mean and sample standard deviation over the runs.

    ``curves`` are the scored epochs of one variant, of each run. With ``starts``, each run's
    baseline score, the curve is of the gain over them, from 0 at epoch 0: what the baselines
    differ by would hide what adaptation does.
    """
    tables = [{int(row["epoch"]): float(row[column]) for row in curve} for curve in curves]
    if starts:
        tables = [{0: 0.0, **{epoch: value - start for epoch, value in table.items()}}
                  for table, start in zip(tables, starts, strict=True)]
    epochs = sorted(set.intersection(*map(set, tables)))
    values = np.array([[table[epoch] for epoch in epochs] for table in tables])
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
    return np.stack([epochs, values.mean(0), spread])


def plot_curves(
    path: str | Path, runs: Sequence[Mapping[str, Sequence[Row]]],
    baselines: Sequence[Row] = (), title: str = "", gains: bool = False,
) -> bool:
    """Writes a PNG with each variant's mean over one or more runs, and a band of ± the spread.

    Of each run, ``runs`` has the :func:`adaptation_curves`, ``baselines`` the row of scores
    without adaptation, drawn as a level line; ``gains`` draws the gain over the run's own.
    Returns whether there was anything to draw: a variant that every run has curves of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = [name for name in (runs[0] if runs else ()) if all(name in run for run in runs)]
    if not names:
        return False
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for column, axes in zip(COLUMNS, figure.subplots(1, len(COLUMNS)), strict=True):
        starts = [row[column] for row in baselines if row.get(column) is not None]
        compared = gains and len(starts) == len(runs)
        for name in names:
            epochs, means, spreads = mean_curve([run[name] for run in runs], column,
                                                starts if compared else ())
            (line,) = axes.plot(epochs, means, label=name)
            axes.fill_between(epochs, means - spreads, means + spreads, color=line.get_color(),
                              alpha=0.12, linewidth=0)
        if starts:
            level = 0.0 if compared else statistics.fmean(starts)
            axes.axhline(level, color="grey", linestyle=":", label="baseline")
        heading = HEADERS.get(column, "reconstruction loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch of adaptation",
                 title=f"{heading}: gain over the baseline" if compared else heading)
        axes.legend(fontsize=8)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True
