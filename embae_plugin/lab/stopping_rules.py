"""What the epoch that is kept gives away against the best: the last one, or a label-free rule's.

The best epoch is picked by the target's labels, out of noisy ones, for each score by itself, so
what is given away is an upper bound of what a better rule for stopping could gain.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from embae_plugin.evaluation.label_free import LAST, MEASURES, RULES
from embae_plugin.evaluation.score_table import HEADERS, Row
from embae_plugin.lab.seeds import RunScores, mean_text

COLUMNS = ("rank1", "mAP")


def chosen(curve: Sequence[Row], rule: str) -> Row:
    """The scored epoch that a rule keeps: ``last``, or the one where a measure is highest."""
    return curve[-1] if rule == LAST else max(curve, key=lambda row: row[rule])


def schedule_table(
    runs: Sequence[RunScores], columns: Sequence[str] = COLUMNS, style: str = "github"
) -> str:
    """What stopping at the last epoch cost each variant, against the best scored epoch.

    Returns:
        a line for each variant; ``""`` where the runs have no scored epochs in common.
    """
    names = [name for name in runs[0].curves if all(name in run.curves for run in runs)]
    body, headers = [[name] for name in names], ["Model"]
    for column in columns:
        title = HEADERS[column]
        headers += [f"{title}, last epoch", "best epochs", f"{title}, best − last"]
        for line, name in zip(body, names, strict=True):
            best = [chosen(run.curves[name], column) for run in runs]
            last = [run.curves[name][-1][column] for run in runs]
            cost = [top[column] - end for top, end in zip(best, last, strict=True)]
            line += [mean_text(last), ", ".join(str(b["epoch"]) for b in best), mean_text(cost)]
    return str(tabulate(body, headers, style, disable_numparse=True)) if names else ""


def stopping_table(runs: Sequence[RunScores], style: str = "github") -> str:
    """A line for each rule: how far below the best epoch what it keeps lies, and above the last.

    Raises:
        ValueError: no run has scored epochs with all measures.
    """
    curves = [curve for run in runs for curve in run.curves.values()
              if curve and all(name in row for row in curve for name in MEASURES)]
    if not curves:
        raise ValueError(
            f"none of {', '.join(str(run.folder) for run in runs)} has measured epochs: train "
            "with test.eval_freq 1, a target of several cameras and embae.test.tta flip"
        )
    body, headers = [[rule.replace("_", " ")] for rule in RULES], ["Epoch kept"]
    for column in COLUMNS:
        headers += [f"{HEADERS[column]}: best − kept, mean", "most", "kept − last, least", "most"]
        for line, rule in zip(body, RULES, strict=True):
            kept = [(curve, chosen(curve, rule)[column]) for curve in curves]
            given = [chosen(curve, column)[column] - value for curve, value in kept]
            above = [value - curve[-1][column] for curve, value in kept]
            line += [f"{statistics.fmean(given):.4f}", f"{max(given):.4f}",
                     f"{min(above):+.4f}", f"{max(above):+.4f}"]
    table = tabulate(body, headers, style, disable_numparse=True)
    return f"{len(curves)} curves of {len(runs)} run(s)\n\n{table}"
