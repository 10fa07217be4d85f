"""Adapts a model to your own cameras, from crops that nobody has labelled.

  embae adapt --images crops --checkpoint osnet_x0_25_msmt17.pth --out adapted
  embae adapt --images crops --camera-regex '_c(?P<camera>\\d+)' --checkpoint … --out …
  embae adapt --csv crops.csv --checkpoint … --out …

crops/ holds one folder for each camera, unless --camera-regex or --csv tells the cameras. Sizes
and formats (jpg, png, bmp, webp) may be mixed. The model is a file of torchreid's zoo, of embae
train, or any other that embae models tells of. Leaves in --out: adapted.pth, torchreid/ (weights
that trackers load, one file for each camera, if the network is one of torchreid's), summary.txt
and summary.json (what changed), before.npz and after.npz (the crops' embeddings), skipped.txt
(crops that cannot be used, if any). Re-running the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from embae_plugin.commands.adaptation_summary import summary_text
from embae_plugin.commands.crop_adaptation import TORCHREID_FILES, CropAdaptation
from embae_plugin.commands.crop_arguments import (
    add_checkpoint_arguments,
    add_crop_arguments,
    crops_of,
)
from embae_plugin.commands.method_help import rows_help
from embae_plugin.data.records import load_data
from embae_plugin.methods.recipe import followed_keys
from embae_plugin.methods.registry import BASELINE, chain, rows
from embae_plugin.methods.run_settings import AdaptSettings
from embae_plugin.reid import pick_device
from embae_plugin.runtime import log_to
from embae_plugin.settings.checks import refuse_others
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.settings.tree import StoreSettings

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_crop_arguments(parser)
    add_checkpoint_arguments(parser)
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME",
                        help="labelled data sets on which embae.adapt.method reconstruction learns "
                             "its autoencoder (default: the crops themselves)")  # fmt: skip
    parser.add_argument("--root", default="reid-data", help="folder of those data sets")
    parser.add_argument("--force", action="store_true", help="replace earlier results in --out")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE",
                        help="a Python file, or a module, that registers methods of your own")
    adapting = {row.name: row.help for row in rows().values() if row.adapts}
    parser.epilog = rows_help("embae.adapt.method NAME chooses the method:", adapting)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"--seed {arguments.seed}: from 0 to {2**32 - 1}")
    cfg = load_config("", arguments.opts)
    cfg.train.seed, cfg.data.root = arguments.seed, arguments.root
    cfg.data.sources, cfg.data.targets = list(arguments.sources), []
    cfg.loss.name, cfg.model.name, cfg.embae.stages = "embae", "embae_mobilenetv1", ["autoencoder"]
    cfg.embae.variants = [BASELINE]
    refuse_others(arguments.opts[0::2], {"embae."}, "embae adapt follows settings that begin with "
                  "embae., and its own flags (--seed, --device, --height, --width, --root)")
    check_config(cfg)
    method = cfg.embae.adapt.method
    followed = followed_keys(cfg) | StoreSettings.followed()
    refuse_others(arguments.opts[0::2], followed, f"embae.adapt.method {method} does not read it; "
                  f"it reads {', '.join(sorted(followed))}")
    steps = chain(AdaptSettings.of(cfg).row(), cfg)
    if arguments.sources and not any(row.name.startswith("autoencoder") for row in steps):
        raise ValueError(
            f"--sources are for embae.adapt.method reconstruction alone; it is {method}, which "
            "learns from the crops"
        )
    with log_to(None, arguments.verbose):
        work = CropAdaptation(
            arguments.checkpoint, crops_of(arguments), arguments.out, cfg, arguments.max_bad,
            arguments.min_side, arguments.force, pick_device(arguments.device),
            arguments.height, arguments.width, arguments.arch,
            load_data(cfg).source if arguments.sources else None,
        )  # fmt: skip
    out = Path(arguments.out)
    with log_to(out / "adapt.log", arguments.verbose):
        content = work.run()
        logger.info("done\n\n%s\n", summary_text(content))
        files = "adapted.pth, summary.txt, summary.json, before.npz, after.npz"
        if (out / TORCHREID_FILES).is_dir():
            files += f", and weights for trackers in {TORCHREID_FILES}/"
        logger.info("written to %s: %s", out, files)
    return 0
