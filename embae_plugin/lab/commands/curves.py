"""Several finished runs side by side, one for each seed: means, spreads, curves of adaptation.

  embae curves log/seed1 log/seed2 log/seed3 --out curves.png
  embae curves log/seed1 --tables curves.md
  embae curves --stopping log/*                  what each label-free rule to stop by gives away

Reads results.json and history.json of runs of `embae train` that differ in train.seed alone, and
prints, as Markdown, the scores and each run's gain over its own baseline, mean ± sample standard
deviation. Runs with test.eval_freq 1 have curves: the gains are drawn, mean and a band of ± the
standard deviation, and a second table says what stopping after the last epoch cost against the
best one. --stopping takes runs of any data and compares, over all their curves, the rules of
embae.transfer.stop with the best epoch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Sequence

from tabulate import tabulate

from embae_plugin.evaluation.label_free import LAST, MEASURES, RULES
from embae_plugin.evaluation.learning_curves import plot_curves
from embae_plugin.evaluation.score_table import HEADERS, Row, write_text
from embae_plugin.lab.seeds import BASELINE, RunScores, mean_text, read_run, read_runs, spread_table
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)

COLUMNS = ("rank1", "mAP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of embae train")
    parser.add_argument("--out", default="", help="a PNG of the curves")
    parser.add_argument("--stopping", action="store_true",
                        help="compare label-free rules to stop by, of any runs")
    parser.add_argument("--tables", default="", help="write the tables to this Markdown file, too")


def chosen(curve: Sequence[Row], rule: str) -> Row:
    """The scored epoch that a rule keeps: ``last``, or the one where a measure is highest."""
    return curve[-1] if rule == LAST else max(curve, key=lambda row: row[rule])


def schedule_table(runs: Sequence[RunScores]) -> str:
    """A line for each variant: what stopping at the last epoch cost, against the best scored one.

    The best epoch is picked by the target's labels, out of noisy ones, so the cost is an upper
    bound of what a rule for stopping could gain. ``""`` where the runs share no scored epochs.
    """
    names = [name for name in runs[0].curves if all(name in run.curves for run in runs)]
    body, headers = [[name] for name in names], ["Model"]
    for column in COLUMNS:
        title = HEADERS[column]
        headers += [f"{title}, last epoch", "best epochs", f"{title}, best − last"]
        for line, name in zip(body, names, strict=True):
            best = [chosen(run.curves[name], column) for run in runs]
            last = [run.curves[name][-1][column] for run in runs]
            cost = [top[column] - end for top, end in zip(best, last, strict=True)]
            line += [mean_text(last), ", ".join(str(b["epoch"]) for b in best), mean_text(cost)]
    return str(tabulate(body, headers, "github", disable_numparse=True)) if names else ""


def stopping_table(runs: Sequence[RunScores]) -> str:
    """A line for each rule: how far below the best epoch what it keeps lies, and above the last.

    The best epoch is picked by the target's labels, for each score by itself. Raises ValueError
    where no run has scored epochs with all measures.
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
    table = tabulate(body, headers, "github", disable_numparse=True)
    return f"{len(curves)} curves of {len(runs)} run(s)\n\n{table}"


def _averages(runs: Sequence[RunScores]) -> str:
    """The scores of the runs and, if they have curves, the cost of the schedule, as Markdown."""
    seeds = ", ".join(str(run.seed) for run in runs)
    count = "one seed" if len(runs) == 1 else f"mean ± standard deviation over {len(runs)} seeds"
    parts = [f"{', '.join(runs[0].sources)} → {runs[0].target}: {count} ({seeds})",
             spread_table(runs), "The last epoch of adaptation against the best one (of each seed; "
             "picked by the target's labels)", schedule_table(runs)]
    return "\n\n".join(parts if parts[-1] else parts[:2])


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.stopping and arguments.out:
        raise ValueError("--out draws curves of runs of one pair; --stopping has tables alone")
    read = map(read_run, arguments.runs) if arguments.stopping else read_runs(arguments.runs)
    runs = list(read)
    text = stopping_table(runs) if arguments.stopping else _averages(runs)
    with log_to(None):
        logger.info("%s", text)
        if arguments.tables:
            write_text(arguments.tables, text + "\n")
            logger.info("written: %s", arguments.tables)
        if not arguments.out:
            return 0
        title = f"{' + '.join(runs[0].sources)} → {runs[0].target}, without its labels"
        if len(runs) > 1:
            title += f": mean ± standard deviation of {len(runs)} seeds"
        baselines = [one.rows.get(BASELINE, {}) for one in runs]
        curves = [one.curves for one in runs]
        if not plot_curves(arguments.out, curves, baselines, title, gains=True):
            raise ValueError(
                f"nothing to draw for {arguments.out}: no variant has scored epochs in all of "
                f"{', '.join(str(one.folder) for one in runs)}; train with test.eval_freq 1"
            )
        logger.info("written: %s", arguments.out)
    return 0
