"""Writes the embeddings of crops to a file, for search, clustering or programs of your own.

  embae extract --checkpoint adapted --images crops --out embeddings.npz
  embae extract --checkpoint adapted --csv crops.csv --out embeddings.parquet

Any number of crops: they pass block by block. Stopped at any moment, the same command goes on.
An .npz holds path, camid (the camera's name), pid if known, and embedding (N, d) float32; a
.parquet the same columns. Embeddings are of length 1 unless --no-normalize is given.
"""

from __future__ import annotations

import argparse
import logging

from embae_plugin.commands.crop_arguments import (
    add_checkpoint_arguments,
    add_crop_arguments,
    crops_of,
    model_of,
)
from embae_plugin.commands.extraction import BLOCK, Extraction
from embae_plugin.data.crops import describe_cameras
from embae_plugin.data.embedding_files import check_suffix
from embae_plugin.reid import pick_device
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_checkpoint_arguments(parser)
    add_crop_arguments(parser)
    parser.add_argument("--out", required=True, help="an .npz or .parquet file")
    parser.add_argument("--no-normalize", action="store_true", help="leave lengths as they are")
    parser.add_argument("--tta", default="flip", choices=("flip", "none"),
                        help="flip (default) averages with the mirror image")  # fmt: skip
    parser.add_argument("--block", type=int, default=BLOCK,
                        help=f"crops in memory at a time (default: {BLOCK})")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace --out if it exists")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.block < 1:
        raise ValueError(f"--block {arguments.block}: at least 1")
    with log_to(None, arguments.verbose):
        check_suffix(arguments.out)  # before the crops are listed, which may take long
        bundle = model_of(arguments)
        crops = crops_of(arguments)
        logger.info("%s", describe_cameras(crops, to_learn=False))
        work = Extraction(
            bundle, crops, arguments.out, not arguments.no_normalize, arguments.tta,
            arguments.max_bad, arguments.min_side, arguments.force,
            pick_device(arguments.device), arguments.block,
        )  # fmt: skip
        rows = work.run()
        bad = len(crops) - rows + len(crops.skipped)
        note = f"; {bad} image(s) cannot be used, see {work.skipped_list}" if bad else ""
        logger.info("written to %s: %d embeddings of %d numbers%s", arguments.out, rows,
                    work.model.feature_dim, note)  # fmt: skip
    return 0
