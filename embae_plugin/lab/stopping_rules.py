"""What each label-free rule to stop by gives away, over the curves of any runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from embae_plugin.evaluation.label_free import LAST, MEASURES, RULES
from embae_plugin.evaluation.score_table import HEADERS, Row
from embae_plugin.lab.seeds import RunScores

COLUMNS = ("rank1", "mAP")


def chosen(curve: Sequence[Row], rule: str) -> Row:
    """The scored epoch that a rule keeps: ``last``, or the one where a measure is highest."""
    if rule == LAST:
        return curve[-1]
    return max(curve, key=lambda row: row[rule])


def stopping_table(runs: Sequence[RunScores], style: str = "github") -> str:
    """A line for each rule: how far below the best epoch what it keeps lies, and above the last.

    The best epoch is picked by the target's labels, for each score by itself.

    Raises:
        ValueError: no run has scored epochs with all measures.
    """
    curves = [
        curve
        for run in runs
        for curve in run.curves.values()
        if curve and all(name in row for row in curve for name in MEASURES)
    ]
    if not curves:
        raise ValueError(
            f"none of {', '.join(str(run.folder) for run in runs)} has measured epochs: train "
            "with test.eval_freq 1, a target of several cameras and embae.test.tta flip"
        )
    body = []
    for rule in RULES:
        line = [rule.replace("_", " ")]
        for column in COLUMNS:
            best = [max(row[column] for row in curve) for curve in curves]
            kept = [chosen(curve, rule)[column] for curve in curves]
            given = [top - value for top, value in zip(best, kept, strict=True)]
            above = [value - curve[-1][column] for value, curve in zip(kept, curves, strict=True)]
            line += [f"{statistics.fmean(given):.4f}", f"{max(given):.4f}",
                     f"{min(above):+.4f}", f"{max(above):+.4f}"]  # fmt: skip
        body.append(line)
    headers = ["Epoch kept"]
    for column in COLUMNS:
        title = HEADERS[column]
        headers += [f"{title}: best − kept, mean", "most", "kept − last, least", "most"]
    table = str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))
    return f"{len(curves)} curves of {len(runs)} run(s)\n\n{table}"
