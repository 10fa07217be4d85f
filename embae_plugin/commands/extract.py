"""Writes the embeddings of crops to a file, for search, clustering or programs of your own.

  embae extract --checkpoint adapted --images crops --out embeddings.npz
  embae extract --checkpoint adapted --csv crops.csv --out embeddings.parquet

Any number of crops: they pass block by block. Re-running the same command resumes.
An .npz holds path, camid (the camera's name), pid if known, and embedding (N, d) float32; a
.parquet the same columns. Embeddings are of length 1 unless --no-normalize is given.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embae_plugin.commands import crop_arguments as given
from embae_plugin.commands.job_folder import explained_disk_errors
from embae_plugin.data.crops import Crops, describe_cameras
from embae_plugin.data.embedding_files import (
    EmbeddingTable,
    check_suffix,
    read_embeddings,
    texts,
    write_embeddings,
)
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.embedder import embed_records, tell_unknown
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.models.bundle import Bundle
from embae_plugin.reid import pick_device
from embae_plugin.runtime import log_to
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

BLOCK = 8192  # crops; 0.8 GB of decoded 256 x 128 images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    given.add_checkpoint_arguments(parser)
    given.add_crop_arguments(parser)
    parser.add_argument("--out", required=True, help="an .npz or .parquet file")
    parser.add_argument("--no-normalize", action="store_true", help="leave lengths as they are")
    parser.add_argument("--tta", default="flip", choices=("flip", "none"),
                        help="flip (default) averages with the mirror image")
    parser.add_argument("--block", type=int, default=BLOCK,
                        help=f"crops in memory at a time (default: {BLOCK})")
    parser.add_argument("--force", action="store_true", help="replace --out if it exists")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    out = Path(arguments.out)
    if arguments.block < 1:
        raise ValueError(f"--block {arguments.block}: at least 1")
    with log_to(None, arguments.verbose):
        check_suffix(out)  # before the crops are listed, which may take long
        if out.is_dir():
            raise ValueError(f"{out} is a folder: name a file with --out")
        if out.exists() and not arguments.force:
            raise ValueError(
                f"{out} exists: name another file with --out, or replace it with --force"
            )
        bundle, crops = given.model_of(arguments), given.crops_of(arguments)
        logger.info("%s", describe_cameras(crops, to_learn=False))
        rows = extract(
            bundle, crops, out, not arguments.no_normalize, arguments.tta, arguments.max_bad,
            arguments.min_side, pick_device(arguments.device), arguments.block,
        )
        bad = len(crops) - rows + len(crops.skipped)
        note = f"; {bad} image(s) cannot be used, see {_skipped_list(out)}" if bad else ""
        width = bundle.model.feature_dim
        logger.info("written to %s: %d embeddings of %d numbers%s", out, rows, width, note)
    return 0


def _skipped_list(out: Path) -> Path:
    return out.with_name(f"{out.name}.skipped.txt")


def extract(
    bundle: Bundle, crops: Crops, out: Path, normalize: bool = True, tta: str = "flip",
    max_bad: float = 0.1, least_side: int = 8, device: torch.device | str = "cpu",
    block: int = BLOCK,
) -> int:
    """Embeds crops and writes the file ``out``, which is whole or absent; returns its rows.

    Neither pixels nor features of all crops are ever in memory together. A finished block is a
    file of its own in a hidden folder next to ``out``, from which an interrupted run resumes.

    Args:
        normalize: scale embeddings to length 1.
        tta: ``flip`` or ``none``.
        max_bad: share of images that may be unreadable.
        least_side: an image with fewer pixels on a side counts as unreadable.
        block: crops at a time.

    Raises:
        ValueError: more images cannot be used than ``max_bad`` allows.
        OSError: a full disk, or another failure to write; re-running the same command resumes.
    """
    crops.check_skipped(max_bad)
    tell_unknown(bundle.model, crops.camera_names)
    model, store = bundle.model.to(device), FeatureStore.of(bundle.input, device)
    about: dict[str, Any] = {
        "model": state_fingerprint(model), "root": str(crops.root.resolve()),
        "normalized": normalize, "tta": tta,
    }
    job = hashlib.blake2b(repr((about, block, bundle.input, least_side)).encode(), digest_size=12)
    job.update("\0".join((*crops.names, *crops.cameras)).encode(errors="surrogateescape"))
    parts, failures = out.with_name(f".{out.name}.parts"), []
    mark = parts / f"{job.hexdigest()}.job"
    starts = range(0, len(crops), block)
    files = [parts / f"{number:06d}.npz" for number in range(len(starts))]
    with explained_disk_errors(out):
        if mark.is_file():
            logger.info("resuming with the parts in %s", parts)
        else:  # parts of other settings, or none
            shutil.rmtree(parts, ignore_errors=True)
            write_text(mark, "")
        for number, (first, file) in enumerate(zip(starts, files, strict=True), 1):
            if not file.is_file():
                some, label = crops.part(first, first + block), f"block {number} of {len(files)}"
                some = some.without(store.try_images(some.records(), label, least_side))
                z = torch.zeros(0, model.feature_dim)
                if len(some):
                    z = embed_records(model, store, some.records(), label, tta, normalize, False)
                store.release_images()
                pids = None if some.pids is None else texts(some.pids)
                table = EmbeddingTable(texts(some.names), texts(some.cameras), z.cpu().numpy(),
                                       pids, {**about, "skipped": some.skipped})
                write_embeddings(file, table)
            failures += [(path, why) for path, why in read_embeddings(file).about["skipped"]]
            bad, total = len(crops.skipped) + len(failures), len(crops.skipped) + len(crops)
            if bad > max_bad * total:
                shutil.rmtree(parts, ignore_errors=True)
                crops.without(failures).check_skipped(max_bad)
        rows = write_embeddings(out, (replace(read_embeddings(f), about=about) for f in files))
        if skipped := [*crops.skipped, *failures]:
            write_text(_skipped_list(out), "".join(f"{path}\t{why}\n" for path, why in skipped))
        shutil.rmtree(parts)
    return rows
