"""What scoring choices are worth, for each finished model in a folder of `embae train`.

  embae ablate --run log/viper_cuhk01_to_market1501 --root reid-data
  embae ablate --run log/… --variants baseline cam --tta none flip

Scores every model (baseline, the paper's variants, and other methods trained there) with each
test-time augmentation, with and without normalised embeddings, and prints Rank-1 and both rules
of average precision: precision at hits (torchreid's and sklearn's), and the trapezoid of the
Market-1501 code. Trains nothing. Writes ablation.json and ablation.md into the folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate
from yacs.config import CfgNode

from embae_plugin.evaluation.score_table import HEADERS, Row, score_row, write_text
from embae_plugin.methods.pipeline import Run
from embae_plugin.methods.registry import rows as all_rows
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.training.scoring import score_model

logger = logging.getLogger(__name__)

TTA = ("none", "flip", "ten_crop")
_COLUMNS = {**HEADERS, "mAP_trapezoid": "mAP (trapezoid)", "mAP_nd_trapezoid": "mAP-nd (trapezoid)"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--run", required=True, dest="folder", help="a folder of embae train")
    parser.add_argument("--root", default="", help="folder with the data sets, if it has moved")
    parser.add_argument("--variants", nargs="+", default=[], help="default: all that are finished")
    parser.add_argument("--tta", nargs="+", default=list(TTA), choices=TTA,
                        help="default: all three")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def config_of(folder: Path, root: str) -> CfgNode:
    """The configuration that a run of ``loss.name embae`` was trained with; refuses others."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: --run takes the data.save_dir of a run of "
                                "embae train")
    cfg = load_config(path)
    cfg.data.save_dir, cfg.test.evaluate = str(folder), True
    cfg.model.load_weights, cfg.data.root = "", root or cfg.data.root
    check_config(cfg)
    if cfg.loss.name != "embae":
        raise ValueError(f"{path}: loss.name is {cfg.loss.name!r}; only runs of embae are scored")
    return cfg


def ablate(run: Run, variants: Sequence[str] = (), tta: Sequence[str] = TTA) -> list[Row]:
    """A row of scores for each finished model × test-time augmentation × normalisation.

    Rows are those of :func:`score_row`, with ``tta`` and ``normalized`` besides. Raises
    FileNotFoundError where one of ``variants`` (empty: all) is not finished, or none is, and
    ValueError where the target has no labelled query and gallery.
    """
    query, gallery = run.data.query, run.data.gallery
    if query is None or gallery is None:
        raise ValueError("the target has no labelled query and gallery to score on")
    scored = [row for row in all_rows().values() if row.scored and not row.show]
    found = {row.name: run.finished(row.folder) for row in scored
             if not variants or row.name in variants}
    models = {name: model for name, model in found.items() if model is not None}
    absent = [name for name in variants if name not in models]
    if absent or not models:
        there = ", ".join(models) or "none"
        raise FileNotFoundError(
            f"{run.save_dir} holds no finished {', '.join(absent) or 'model'} (finished: {there}). "
            "Train it with embae train, the same data.save_dir and embae.variants"
        )
    rows = []
    for (variant, model), views in itertools.product(models.items(), tta):
        logger.info("%s, test-time augmentation %s", variant, views)
        for normalized in (False, True):
            scores = score_model(model, run.store, query, gallery, views, normalized,
                                 run.cfg.embae.test.protocols)
            row = score_row(variant, scores, run.cfg.test.ranks)
            rows.append({"tta": views, "normalized": normalized, **row})
    return rows


def ablation_table(rows: Sequence[Row], style: str = "simple") -> str:
    """A line for each model, test-time augmentation and normalisation."""
    body = [[row["variant"], row["tta"], "yes" if row["normalized"] else "no",
             *(row.get(key) for key in _COLUMNS)] for row in rows]
    headers = ["Model", "TTA", "normalised", *_COLUMNS.values()]
    return str(tabulate(body, headers, style, floatfmt=".3f", missingval="–"))


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    folder = Path(arguments.folder)
    cfg = config_of(folder, arguments.root)
    with log_to(folder / "ablation.log", arguments.verbose):
        rows = ablate(Run(cfg), arguments.variants, arguments.tta)
        content = {"target": cfg.data.targets[0], "sources": list(cfg.data.sources),
                   "seed": cfg.train.seed, "rows": rows}
        write_text(folder / "ablation.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        title = f"# Scoring choices: {', '.join(cfg.data.sources)} → {cfg.data.targets[0]}\n\n"
        write_text(folder / "ablation.md", title + ablation_table(rows, "github") + "\n")
        logger.info("\n%s\n", ablation_table(rows))
        logger.info("written to %s: ablation.md, ablation.json", folder)
    return 0
