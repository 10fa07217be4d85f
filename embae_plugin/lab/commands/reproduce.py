"""Repeats the paper's Tables 1 to 4 and prints the published numbers beside ours.

  embae reproduce --table all --root reid-data
  embae reproduce --table 1 --table 3 --seeds 3 --root reid-data
  embae reproduce --preset synthetic              (built-in cameras, nothing to download)
  embae reproduce --preset viper_cuhk01 --root reid-data train.max_epoch 60

Trains what the tables need, once for each seed, or reuses what an earlier call has trained: the
same command, given again, goes on where it was stopped. Tables whose data are missing say which
folder was looked for; the others still run. Leaves in --out the tables as tables.md, .csv, .json
and .png, and a run folder, as `embae train` leaves it, for each choice of data and seed.

Scores are reused where settings, data and this package's code are what they were made with. Where
the code alone has changed, the models of finished stages are scored again: remove a run's folder
to train them again.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from embae_plugin import __version__
from embae_plugin.commands.train import run_config
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.lab.reproduction import render
from embae_plugin.lab.reproduction.jobs import plan_jobs
from embae_plugin.lab.reproduction.preset import load_preset, seeds_of
from embae_plugin.lab.reproduction.runner import Outcome, dry_run, reproduce, table_results
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds 1 to N from ``N``, or those of a list: ``4,7`` or, a single one, ``4,``."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
        return seeds_of(numbers if "," in text else numbers[0], "--seeds")
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither how many seeds (3) nor a list of different ones (4,7 or 4,)"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--table", action="append", choices=["1", "2", "3", "4", "all"],
                        help="which table; may be given more than once (default: all)")
    parser.add_argument("--preset", default="paper",
                        help="paper (default), synthetic, viper_cuhk01 or a yaml file")
    parser.add_argument("--root", default="", help="folder with the data sets")
    parser.add_argument("--seeds", type=parse_seeds, default=None, metavar="N | A,B,…",
                        help="how many seeds, or which (default: the preset's)")
    parser.add_argument("--out", default="", help="default: log/reproduce_PRESET")
    parser.add_argument("--all-variants", action="store_true",
                        help="add EmbAE-all and EmbAE-dataset, not printed there")
    parser.add_argument("--dry-run", action="store_true",
                        help="print what would run, and what is done already")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; 2 if a run failed, or not a single table had its data."""
    preset = load_preset(arguments.preset)
    out = Path(arguments.out or f"log/reproduce_{preset.name}")
    chosen = arguments.table or ["all"]
    numbers = list(preset.tables) if "all" in chosen else sorted({int(number) for number in chosen})
    plan = plan_jobs(preset, numbers, arguments.seeds or preset.seeds, out, arguments.root,
                     arguments.all_variants, arguments.opts)
    if arguments.dry_run:
        with log_to(None, arguments.verbose):
            logger.info("%s\n\n%s", preset.about, dry_run(plan))
        return 0

    def save(outcomes: Mapping[str, Outcome]) -> None:
        """Writes the tables as far as they are filled."""
        tables = table_results(plan, outcomes)
        content = {"preset": preset.name, "version": __version__, "options": arguments.opts,
                   "tables": render.as_json(tables)}
        write_text(out / "tables.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_text(out / "tables.csv", render.as_csv(tables))
        command = " ".join(["embae reproduce --preset", arguments.preset, *arguments.opts])
        write_text(out / "tables.md", render.as_markdown(tables, command))
        render.plot_tables(out / "tables.png", tables)

    with log_to(out / "reproduce.log", arguments.verbose):
        logger.info("%s", preset.about)
        outcomes = reproduce(plan, run_config, save)
        text = render.as_text(table_results(plan, outcomes))
        logger.info("in brackets: the gain over the baseline\n\n%s\n", text)
        logger.info("written to %s: tables.md, tables.csv, tables.json, tables.png", out)
    failed = any(outcome.failed for outcome in outcomes.values())
    return 0 if not failed and any(outcome.scores for outcome in outcomes.values()) else 2
