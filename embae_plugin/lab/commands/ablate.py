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
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate
from yacs.config import CfgNode

from embae_plugin.evaluation.score_table import Row, write_text
from embae_plugin.lab.ablation import TTA, ablate
from embae_plugin.methods.pipeline import Run
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, load_config

logger = logging.getLogger(__name__)

_COLUMNS = {
    "rank1": "Rank-1", "rank1_nd": "Rank-1-nd", "mAP": "mAP", "mAP_nd": "mAP-nd",
    "mAP_trapezoid": "mAP (trapezoid)", "mAP_nd_trapezoid": "mAP-nd (trapezoid)",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--run", required=True, dest="folder", help="a folder of embae train")
    parser.add_argument("--root", default="", help="folder with the data sets, if it has moved")
    parser.add_argument("--variants", nargs="+", default=[], help="default: all that are finished")
    parser.add_argument("--tta", nargs="+", default=list(TTA), choices=TTA,
                        help="default: all three")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def config_of(folder: Path, root: str) -> CfgNode:
    """The configuration that a run was trained with.

    Raises:
        FileNotFoundError: the folder holds no ``config.yaml``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: --run takes the data.save_dir of a run of "
                                "embae train")  # fmt: skip
    cfg = load_config(path)
    cfg.data.save_dir, cfg.test.evaluate = str(folder), True
    cfg.model.load_weights = ""
    if root:
        cfg.data.root = root
    check_config(cfg)
    if cfg.loss.name != "embae":
        raise ValueError(f"{path}: loss.name is {cfg.loss.name!r}; only runs of embae are scored")
    return cfg


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    folder = Path(arguments.folder)
    cfg = config_of(folder, arguments.root)
    with log_to(folder / "ablation.log", arguments.verbose):
        rows = ablate(Run(cfg), arguments.variants, arguments.tta)
        content = {"target": cfg.data.targets[0], "sources": list(cfg.data.sources),
                   "seed": cfg.train.seed, "rows": rows}  # fmt: skip
        write_text(folder / "ablation.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        title = f"# Scoring choices: {', '.join(cfg.data.sources)} → {cfg.data.targets[0]}\n\n"
        write_text(folder / "ablation.md", title + ablation_table(rows, "github") + "\n")
        logger.info("\n%s\n", ablation_table(rows))
        logger.info("written to %s: ablation.md, ablation.json", folder)
    return 0


def ablation_table(rows: Sequence[Row], style: str = "simple") -> str:
    """A line for each model, test-time augmentation and normalisation."""
    body = []
    for row in rows:
        scores = ["–" if row.get(key) is None else f"{row[key]:.3f}" for key in _COLUMNS]
        body.append([row["variant"], row["tta"], "yes" if row["normalized"] else "no", *scores])
    headers = ["Model", "TTA", "normalised", *_COLUMNS.values()]
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))
