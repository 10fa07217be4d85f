"""Trains and adapts, torchreid's way: a config file, torchreid's flags, `key value` pairs.

  embae train --config-file configs/viper_cuhk01_to_market1501.yaml --root reid-data
  embae train --config-file … train.max_epoch 60 embae.variants "['baseline','cam']"

With loss.name embae it runs the stages of embae.stages and scores every variant of
embae.variants on the target; given again, the same command goes on where it was stopped.
Several GPUs: torchrun --nproc_per_node=N tools/train.py … with the same flags (docs/scaling.md).
With loss.name softmax or triplet it runs torchreid's own engines.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from yacs.config import CfgNode

from embae_plugin import distributed
from embae_plugin.commands.method_help import rows_help
from embae_plugin.commands.stock_training import run_stock
from embae_plugin.evaluation.learning_curves import adaptation_curves, plot_curves
from embae_plugin.evaluation.score_table import (
    Row,
    dropped_note,
    kept_rows,
    plot_scores,
    score_table,
    write_results,
    write_text,
)
from embae_plugin.methods.pipeline import Run
from embae_plugin.methods.registry import rows
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, load_config

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """torchreid's flags."""
    parser.add_argument("--config-file", default="", help="a yaml file, see configs/")
    parser.add_argument("-s", "--sources", nargs="+", help="labelled datasets to learn from")
    parser.add_argument("-t", "--targets", nargs="+", help="the dataset to adapt to")
    parser.add_argument("--transforms", nargs="+", help="data augmentation")
    parser.add_argument("--root", default="", help="folder with the datasets")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE",
                        help="a Python file, or a module, that registers methods of your own")
    scored = {row.name: row.help for row in rows().values() if row.scored}
    parser.epilog = rows_help("embae.variants names the rows of results:", scored)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


LISTS = ("sources", "targets", "transforms")


def config_of(arguments: argparse.Namespace) -> CfgNode:
    """The checked configuration of a command line."""
    options, names = _options_apart(arguments)
    flags = ["data.root", arguments.root] if arguments.root else []
    for name in LISTS:
        flags += [f"data.{name}", str(names[name])] if names[name] else []
    cfg = load_config(arguments.config_file, [*flags, *options])  # pairs come last, as torchreid's
    check_config(cfg)
    return cfg


def _options_apart(arguments: argparse.Namespace) -> tuple[list[str], dict[str, list[str]]]:
    """The `key value` pairs, and the words of each flag that takes several.

    Such a flag takes all words up to the next flag, so in ``-t viper data.combineall False`` the
    pair is among them. Keys have a dot, and no name has one.
    """
    options, names = list(arguments.opts), {}
    for name in LISTS:
        words = list(getattr(arguments, name) or [])
        keys = [number for number, word in enumerate(words) if "." in word]
        first = keys[0] if keys else len(words)
        if words and not first:
            raise ValueError(f"--{name} is followed by {words[0]}: name at least one of its own")
        names[name], options = words[:first], words[first:] + options
    return options, names


def run(arguments: argparse.Namespace) -> int:
    """Runs the configuration."""
    cfg = config_of(arguments)
    log_file = Path(cfg.data.save_dir) / ("test.log" if cfg.test.evaluate else "train.log")
    with distributed.processes(cfg.use_gpu):
        if distributed.rank():
            with log_to(None, quiet=True):
                run_config(cfg)
        else:
            with log_to(log_file, arguments.verbose):
                logger.debug("processes: %d", distributed.size())
                run_config(cfg)
    return 0


def run_config(cfg: CfgNode) -> list[Row]:
    """Runs a checked configuration; rank 0 leaves its results in ``data.save_dir``."""
    save_dir = Path(cfg.data.save_dir)
    if distributed.size() > 1 and cfg.loss.name != "embae":
        raise ValueError(
            f"loss.name {cfg.loss.name} runs torchreid's own engine, in one process: start it "
            "without torchrun"
        )
    if distributed.rank():
        work = Run(cfg)
        return work.evaluate() if cfg.test.evaluate else work.train()
    kept = save_dir / "config.yaml"
    if not cfg.test.evaluate and not kept.exists():
        write_text(kept, cfg.dump())
    if cfg.loss.name != "embae":
        run_stock(cfg)
        write_text(kept, cfg.dump())
        return []
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(save_dir / "tensorboard")) as writer:
        work = Run(cfg, writer)
        rows = work.evaluate() if cfg.test.evaluate else work.train()
    if not cfg.test.evaluate:  # not before: a refused run leaves a finished one's as it is
        write_text(kept, cfg.dump())
    if rows:
        report(cfg, rows, work)
    return rows


def report(cfg: CfgNode, rows: list[Row], work: Run) -> None:
    """Prints the table; writes results.json, scores.png, history.json and curves.png."""
    save_dir, target = Path(cfg.data.save_dir), cfg.data.targets[0]
    seconds = {stage: round(value, 1) for stage, value in work.models.seconds.items()}
    results = save_dir / "results.json"
    about = {"sources": list(cfg.data.sources), "seed": cfg.train.seed}
    kept = kept_rows(results, target, about, {row["variant"] for row in rows})
    write_results(results, target, [*kept, *rows], **about, seconds=seconds)
    plot_scores(save_dir / "scores.png", target, rows)
    if work.models.history:
        write_text(save_dir / "history.json", json.dumps(work.models.history, indent=1) + "\n")
    base = [row for row in rows if row["variant"] == "baseline"]
    plot_curves(save_dir / "curves.png", [adaptation_curves(work.models.history)], base)
    note = dropped_note(rows)
    logger.info("scores on %s, in brackets the gain over the baseline\n\n%s\n%s", target,
                score_table(rows), f"\n{note}\n" if note else "")  # fmt: skip
    logger.info("written to %s: results.json, scores.png, config.yaml, checkpoints", save_dir)
