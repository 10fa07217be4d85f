"""The whole method on the built-in synthetic cameras: minutes on two cores, nothing to download.

  embae demo --out demo

Draws two labelled camera networks and an unlabelled one, trains the embedding on the first two,
adapts it to the third by every variant of the paper and prints the scores side by side. Leaves
in --out: the crops, a sheet of what the cameras see, the plot of scores, and all that a run of
`embae train` leaves.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from embae_plugin.cli.train import run_config
from embae_plugin.config import check_config, load_config
from embae_plugin.config_files import find_config
from embae_plugin.data.records import load_data
from embae_plugin.evaluation.camera_sheet import save_camera_sheet
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the demo."""
    parser.add_argument("--out", default="demo", help="where everything goes (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="of the training (default: 1)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo."""
    started = time.monotonic()
    out = Path(arguments.out)
    cfg = load_config(find_config("synthetic.yaml"), arguments.opts)
    cfg.data.root, cfg.data.save_dir = str(out / "reid-data"), str(out / "run")
    cfg.train.seed = arguments.seed
    check_config(cfg)
    with log_to(out / "run" / "train.log"):
        logger.info("the built-in cameras are under %s", cfg.data.root)
        data = load_data(cfg)
        save_camera_sheet(out / "cameras.png", data)
        run_config(cfg)
        logger.info("what the cameras see: %s; scores: %s; %.0f seconds in all",
                    out / "cameras.png", out / "run" / "scores.png",
                    time.monotonic() - started)  # fmt: skip
    return 0
