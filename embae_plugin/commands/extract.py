"""Writes the embeddings of crops to a file, for search, clustering or programs of your own.

  embae extract --checkpoint adapted --images crops --out embeddings.npz
  embae extract --checkpoint adapted --csv crops.csv --out embeddings.parquet

Any number of crops: they pass block by block, which the processes that torchrun starts share out.
Re-running the same command resumes.
An .npz holds path, camid (the camera's name), pid if known, and embedding (N, d) float32; a
.parquet the same columns. Embeddings are of length 1 unless --no-normalize is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embae_plugin import distributed
from embae_plugin.atomic_file import remove_drafts
from embae_plugin.commands import shared_arguments as given
from embae_plugin.commands.job_folder import explained_disk_errors
from embae_plugin.data.crops import Crops, describe_cameras
from embae_plugin.data.embedding_files import check_suffix, read_embeddings, write_embeddings
from embae_plugin.data.feature_bank import BLOCK as BATCH
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.embedder import crops_table, embed_records, tell_unknown
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.models.bundle import Bundle
from embae_plugin.one_at_a_time import LOCK, only_one
from embae_plugin.progress import progress
from embae_plugin.reid import pick_device
from embae_plugin.runtime import log_to
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

BLOCK = 8192  # crops; 0.8 GB of decoded 256 x 128 images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    given.add_checkpoint_arguments(parser)
    given.add_crop_arguments(parser)
    add = parser.add_argument
    add("--out", required=True, help="an .npz or .parquet file")
    add("--no-normalize", action="store_true", help="leave lengths as they are")
    add("--tta", default="flip", choices=("flip", "none"),
        help="flip (default) averages with the mirror image")
    add("--block", type=int, default=BLOCK, help=f"crops in memory at a time (default: {BLOCK})")
    add("--force", action="store_true", help="replace --out if it exists")
    add("--verbose", action="store_true", help="log everything to the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    out = Path(arguments.out)
    if arguments.block < 1:
        raise ValueError(f"--block {arguments.block}: at least 1")
    with (
        given.joined(arguments),
        log_to(None, arguments.verbose, quiet=distributed.rank() > 0),
        explained_disk_errors(out),
    ):
        check_suffix(out)  # before the crops are listed, which may take long
        if out.is_dir():
            raise ValueError(f"{out} is a folder: name a file with --out")
        if out.exists() and not arguments.force:
            raise ValueError(
                f"{out} exists: name another file with --out, or replace it with --force"
            )
        with distributed.rank_zero_first():  # which may fetch the model
            bundle = given.model_of(arguments)
        crops = given.crops_of(arguments)
        logger.info("%s", describe_cameras(crops, to_learn=False))
        rows, skipped = extract(arguments, bundle, crops)
        if distributed.rank():
            return 0
        note = ""
        if skipped:
            listed = out.with_name(f"{out.name}.skipped.txt")
            write_text(listed, "".join(f"{path}\t{why}\n" for path, why in skipped))
            note = f"; {len(skipped)} image(s) cannot be used, see {listed}"
        width = bundle.model.feature_dim
        logger.info("written to %s: %d embeddings of %d numbers%s", out, rows, width, note)
    return 0


def _block(most: int, count: int) -> int:
    """Crops in a block: so few that each process has some, in whole batches of the network's."""
    share = -(-count // distributed.size())
    return most if distributed.size() == 1 else min(most, -(-share // BATCH) * BATCH)


def parts_of(out: Path) -> Path:
    """The hidden folder of the finished blocks of ``--out``."""
    return out.with_name(f".{out.name}.parts")


def done_parts(out: Path) -> tuple[int, int, str]:
    """Blocks that are done, of how many, and what resumes; zeros and "" where nobody knows."""
    parts = parts_of(out)
    for mark in parts.glob("*.job"):
        left = json.loads(mark.read_text(encoding="utf-8") or "{}")
        done = len([*parts.glob("[0-9]*.npz")])
        return done, int(left.get("blocks", 0)), str(left.get("command", ""))
    return 0, 0, ""


def extract(
    arguments: argparse.Namespace, bundle: Bundle, crops: Crops
) -> tuple[int, list[tuple[str, str]]]:
    """Embeds crops and writes the file ``--out``, which is whole or absent.

    Neither pixels nor features of all crops are ever in memory together. A finished block is a
    file of its own in a hidden folder next to ``--out``, from which an interrupted run resumes.
    Several processes write those in turn, and the first joins them.

    Returns:
        the number of embeddings, and (path, reason) of what cannot be used; in the first process.

    Raises:
        ValueError: more images cannot be used than ``--max-bad`` allows, or another run is at work
            on the same file.
        OSError: a full disk, or another failure to write; re-running the same command resumes.
    """
    crops.check_skipped(arguments.max_bad)
    tell_unknown(bundle.model, crops.camera_names)
    out, device = Path(arguments.out), pick_device(arguments.device)
    block, first = _block(arguments.block, len(crops)), distributed.rank() == 0
    if first:
        remove_drafts(out)
    normalize, tta, least = not arguments.no_normalize, arguments.tta, arguments.min_side
    model, store = bundle.model.to(device), FeatureStore.of(bundle.input, device)
    about: dict[str, Any] = {
        "model": state_fingerprint(model), "root": str(crops.root.resolve()),
        "normalized": normalize, "tta": tta,
    }
    job = hashlib.blake2b(repr((about, block, bundle.input, least)).encode(), digest_size=12)
    job.update("\0".join((*crops.names, *crops.cameras)).encode(errors="surrogateescape"))
    parts, failures = parts_of(out), list[tuple[str, str]]()
    mark = parts / f"{job.hexdigest()}.job"
    starts = range(0, len(crops), block)
    files = [parts / f"{number:06d}.npz" for number in range(len(starts))]

    def work(number: int) -> list[tuple[str, str]]:
        """Makes a block's file, unless it is there; returns what cannot be used of it."""
        skipped = _skipped_in(files[number])
        if skipped is None:
            label = f"block {number + 1} of {len(files)}"
            some = crops.part(starts[number], starts[number] + block)
            some = some.without(store.try_images(some.records(), label, least))
            z = torch.zeros(0, model.feature_dim)
            if len(some):
                z = embed_records(model, store, some.records(), label, tta, normalize, False)
            store.release_images()
            skipped = some.skipped
            write_embeddings(files[number], crops_table(some, z, {**about, "skipped": skipped}))
        return skipped

    def refuse_too_many() -> None:
        bad = len(crops.skipped) + len(failures)
        if bad > arguments.max_bad * (len(crops.skipped) + len(crops)):
            shutil.rmtree(parts, ignore_errors=True)
            crops.without(failures).check_skipped(arguments.max_bad)

    distributed.check_same("the crops, the model and the settings", job.hexdigest())
    with only_one(out.with_name(f".{out.name}{LOCK}")) if first else nullcontext():
        if first and mark.is_file():
            logger.info("resuming with the parts in %s", parts)
        elif first:  # parts of other settings, or none
            shutil.rmtree(parts, ignore_errors=True)
            left = {"blocks": len(files), "command": getattr(arguments, "command", "")}
            write_text(mark, json.dumps(left) + "\n")
        distributed.barrier()  # which a refused rank 0 does not come to, and so ends the others
        mine = range(distributed.rank(), len(files), distributed.size())
        with distributed.apart():
            for number in progress(mine, "embed", unit="block", leave=True):
                failures += work(number)
                refuse_too_many()
        distributed.barrier()
        if not first:
            return 0, []
        with distributed.apart():
            for number in sorted({*range(len(files))} - {*mine}):
                failures += work(number)
        refuse_too_many()
        rows = write_embeddings(out, (replace(read_embeddings(f), about=about) for f in files))
        shutil.rmtree(parts)
    return rows, [*crops.skipped, *failures]


def _skipped_in(file: Path) -> list[tuple[str, str]] | None:
    """What a finished block left out; None where it is not there, or was damaged by a power cut."""
    try:
        return [(str(path), str(why)) for path, why in read_embeddings(file).about["skipped"]]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
