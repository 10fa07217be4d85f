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
from collections.abc import Sequence

from embae_plugin.evaluation.learning_curves import plot_mean_curves
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.lab.seeds import BASELINE, RunScores, read_run, read_runs, spread_table
from embae_plugin.lab.stopping_rules import schedule_table, stopping_table
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of embae train")
    parser.add_argument("--out", default="", help="a PNG of the curves")
    parser.add_argument("--stopping", action="store_true",
                        help="compare label-free rules to stop by, of any runs")
    parser.add_argument("--tables", default="", help="write the tables to this Markdown file, too")


def tables(runs: Sequence[RunScores]) -> str:
    """The scores of the runs and, if they have curves, the cost of the schedule, as Markdown."""
    seeds = ", ".join(str(run.seed) for run in runs)
    count = "one seed" if len(runs) == 1 else f"mean ± standard deviation over {len(runs)} seeds"
    text = (f"{', '.join(runs[0].sources)} → {runs[0].target}: {count} ({seeds})\n\n"
            f"{spread_table(runs)}")
    schedule = schedule_table(runs)
    return text if not schedule else (
        f"{text}\n\nThe last epoch of adaptation against the best one (of each seed; picked by the "
        f"target's labels)\n\n{schedule}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.stopping and arguments.out:
        raise ValueError("--out draws curves of runs of one pair; --stopping has tables alone")
    if arguments.stopping:
        text = stopping_table([read_run(folder) for folder in arguments.runs])
    else:
        runs = read_runs(arguments.runs)
        text = tables(runs)
    with log_to(None):
        logger.info("%s", text)
        if arguments.tables:
            write_text(arguments.tables, text + "\n")
            logger.info("written: %s", arguments.tables)
        if arguments.out:
            _draw(arguments.out, runs)
    return 0


def _draw(path: str, runs: Sequence[RunScores]) -> None:
    title = f"{' + '.join(runs[0].sources)} → {runs[0].target}, without its labels"
    if len(runs) > 1:
        title += f": mean ± standard deviation of {len(runs)} seeds"
    baselines = [one.rows.get(BASELINE, {}) for one in runs]
    if not plot_mean_curves(path, [one.curves for one in runs], baselines, title):
        raise ValueError(
            f"nothing to draw for {path}: no variant has scored epochs in all of "
            f"{', '.join(str(one.folder) for one in runs)}; train with test.eval_freq 1"
        )
    logger.info("written: %s", path)
