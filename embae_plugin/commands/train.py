"""Trains and adapts, torchreid's way: a config file, torchreid's flags, `key value` pairs.

  embae train --config-file configs/viper_cuhk01_to_market1501.yaml --root reid-data
  embae train --config-file … train.max_epoch 60 embae.variants "['baseline','cam']"

With loss.name embae it runs the stages of embae.stages and scores every variant of
embae.variants on the target; re-running the same command resumes.
Several GPUs: torchrun --nproc_per_node=N tools/train.py … with the same flags (docs/scaling.md).
With loss.name softmax or triplet it runs torchreid's own engines.
"""

from __future__ import annotations

import argparse
import json
import logging
from contextlib import nullcontext
from pathlib import Path

from yacs.config import CfgNode

from embae_plugin import distributed
from embae_plugin.commands.shared_arguments import add_method_arguments
from embae_plugin.commands.stock_training import run_stock
from embae_plugin.evaluation import score_table as scores
from embae_plugin.evaluation.learning_curves import adaptation_curves, plot_curves
from embae_plugin.evaluation.score_table import Row, write_text
from embae_plugin.methods.pipeline import Run
from embae_plugin.methods.registry import rows, variant_names
from embae_plugin.one_at_a_time import LOCK, only_one
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, load_config

logger = logging.getLogger(__name__)

COMMAND = "command.txt"  # what resumes the run

LISTS = {"sources": "labelled datasets to learn from", "targets": "the dataset to adapt to",
         "transforms": "data augmentation"}  # flags that take several words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """torchreid's flags."""
    parser.add_argument("--config-file", default="", help="a yaml file, see configs/")
    for name, text in LISTS.items():
        short = () if name == "transforms" else (f"-{name[0]}",)
        parser.add_argument(*short, f"--{name}", nargs="+", default=[], help=text)
    parser.add_argument("--root", default="", help="folder with the datasets")
    helps = {row.name: row.help for row in rows().values()}
    add_method_arguments(parser, "embae.variants names the rows of results:",
                         [(name, helps[name]) for name in variant_names()])


def config_of(arguments: argparse.Namespace) -> CfgNode:
    """The checked configuration of a command line; pairs come last, as torchreid's.

    A flag of :data:`LISTS` takes all words up to the next flag, so in ``-t viper data.combineall
    False`` the pair is among them. Keys have a dot, and no name has one.

    Raises:
        ValueError: a flag without words of its own, or a configuration that cannot be run.
    """
    options, flags = arguments.opts, ["data.root", arguments.root] if arguments.root else []
    for name in LISTS:
        words = getattr(arguments, name)
        end = next((number for number, word in enumerate(words) if "." in word), len(words))
        if words and not end:
            raise ValueError(f"--{name} is followed by {words[0]}: name at least one of its own")
        flags += [f"data.{name}", str(words[:end])] if words else []
        options = words[end:] + options
    cfg = load_config(arguments.config_file, [*flags, *options])
    check_config(cfg)
    return cfg


def run(arguments: argparse.Namespace) -> int:
    """Runs the configuration."""
    cfg = config_of(arguments)
    log_file = Path(cfg.data.save_dir) / ("test.log" if cfg.test.evaluate else "train.log")
    with distributed.processes(cfg.use_gpu):
        first = distributed.rank() == 0
        with log_to(log_file if first else None, arguments.verbose, quiet=not first):
            logger.debug("processes: %d", distributed.size())
            run_config(cfg, getattr(arguments, "command", ""))
    return 0


def run_config(cfg: CfgNode, command: str = "") -> list[Row]:
    """Runs a checked configuration; rank 0 leaves its results in ``data.save_dir``.

    ``command`` is what resumes it, for `embae status`.

    Raises:
        ValueError: another run is at work in that folder.
    """
    alone = distributed.rank() == 0 and not cfg.test.evaluate
    with only_one(Path(cfg.data.save_dir) / LOCK) if alone else nullcontext():
        return _run_config(cfg, command)


def _run_config(cfg: CfgNode, command: str) -> list[Row]:
    save_dir, first = Path(cfg.data.save_dir), distributed.rank() == 0
    if distributed.size() > 1 and cfg.loss.name != "embae":
        raise ValueError(f"loss.name {cfg.loss.name} runs torchreid's own engine, in one process: "
                         "start it without torchrun")
    kept, trains = save_dir / "config.yaml", not cfg.test.evaluate
    if first and trains and not kept.exists():
        write_text(kept, cfg.dump())
    if cfg.loss.name != "embae":
        run_stock(cfg)
        write_text(kept, cfg.dump())
        return []
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(save_dir / "tensorboard")) if first else nullcontext() as writer:
        work = Run(cfg, writer)
        if first and trains and command:
            write_text(save_dir / COMMAND, command + "\n")
        rows = work.train() if trains else work.evaluate()
    if first and trains:  # not before: a refused run leaves a finished one's as it is
        write_text(kept, cfg.dump())
    if first and rows:
        report(cfg, rows, work)
    return rows


def report(cfg: CfgNode, rows: list[Row], work: Run) -> None:
    """Prints the table; writes results.json, scores.png, history.json and curves.png."""
    save_dir, target, history = Path(cfg.data.save_dir), cfg.data.targets[0], work.models.history
    results = save_dir / "results.json"
    about = {"sources": list(cfg.data.sources), "seed": cfg.train.seed}
    earlier = scores.kept_rows(results, target, about, {row["variant"] for row in rows})
    seconds = {stage: round(value, 1) for stage, value in work.models.seconds.items()}
    scores.write_results(results, target, [*earlier, *rows], **about, seconds=seconds)
    scores.plot_scores(save_dir / "scores.png", target, rows)
    if history:
        write_text(save_dir / "history.json", json.dumps(history, indent=1) + "\n")
    base = [row for row in rows if row["variant"] == "baseline"]
    plot_curves(save_dir / "curves.png", [adaptation_curves(history)], base)
    note = scores.dropped_note(rows)
    logger.info("scores on %s, in brackets the gain over the baseline\n\n%s\n%s", target,
                scores.score_table(rows), f"\n{note}\n" if note else "")
    logger.info("written to %s: results.json, scores.png, config.yaml, checkpoints", save_dir)
