"""Accuracy and reconstruction loss against the epochs of adaptation.

Drawn from the target's labels, for whoever has them: nothing is selected by these curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.report import HEADERS, Row

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
