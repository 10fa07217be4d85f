"""Embeddings of any number of crops to a file: `embae extract`.

Crops go through block by block, so that neither their pixels nor their features are ever in
memory together. A finished block is a file of its own in a hidden folder beside the output, where
a stopped run goes on; at the end they become the output, which is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from embae_plugin.commands.job_folder import explained_disk_errors
from embae_plugin.data.crops import Crops
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
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

BLOCK = 8192  # crops; 0.8 GB of decoded 256 x 128 images
_JOB = "job.json"


class Extraction:
    """One run of `embae extract`; made without writing anything.

    Args:
        bundle: the model.
        crops: what to embed.
        out: an .npz or .parquet file.
        normalize: scale embeddings to length 1.
        tta: ``flip`` or ``none``.
        max_bad: share of images that may be unreadable.
        least_side: an image with fewer pixels on a side counts as unreadable.
        force: replace ``out`` if it is there.
        device: where to compute.
        block: crops at a time.

    Raises:
        ValueError: another ending than .npz and .parquet, or ``out`` exists.
        ImportError: a .parquet without pyarrow.
    """

    def __init__(
        self,
        bundle: Bundle,
        crops: Crops,
        out: str | Path,
        normalize: bool = True,
        tta: str = "flip",
        max_bad: float = 0.1,
        least_side: int = 8,
        force: bool = False,
        device: torch.device | str = "cpu",
        block: int = BLOCK,
    ) -> None:
        self.out, self.crops, self.max_bad, self.block = Path(out), crops, max_bad, block
        check_suffix(out)
        if self.out.is_dir():
            raise ValueError(f"{out} is a folder: name a file with --out")
        if self.out.exists() and not force:
            raise ValueError(
                f"{out} exists: name another file with --out, or replace it with --force"
            )
        crops.check_skipped(max_bad)
        self.normalize, self.tta, self.least_side = normalize, tta, least_side
        self.model = bundle.model.to(device)
        self.store = FeatureStore.of(bundle.input, device)
        self.parts = self.out.with_name(f".{self.out.name}.parts")
        self.skipped_list = self.out.with_name(f"{self.out.name}.skipped.txt")
        names = "\0".join((*crops.names, *crops.cameras)).encode(errors="surrogateescape")
        self.about: dict[str, Any] = {
            "model": state_fingerprint(self.model), "root": str(crops.root.resolve()),
            "normalized": normalize, "tta": tta,
        }  # fmt: skip
        self.settings = {
            **self.about, "crops": hashlib.blake2b(names, digest_size=12).hexdigest(),
            "block": block, "input": bundle.input.as_dict(), "least_side": least_side,
        }  # fmt: skip

    def run(self) -> int:
        """Embeds what is left and writes the output; returns its number of rows.

        Raises:
            ValueError: more images cannot be used than ``max_bad`` allows.
            OSError: a full disk, or another failure to write; the same command goes on.
        """
        tell_unknown(self.model, self.crops.camera_names)
        with explained_disk_errors(self.out):
            self._begin()
            count = -(-len(self.crops) // self.block)
            skipped = list(self.crops.skipped)
            for number in range(count):
                skipped += self._part(number, count)
                allowed = self.max_bad * (len(self.crops) + len(self.crops.skipped))
                if len(skipped) > allowed:
                    self._refuse(skipped)
            rows = write_embeddings(self.out, self._tables(count))
            lines = "".join(f"{path}\t{reason}\n" for path, reason in skipped)
            if skipped:
                write_text(self.skipped_list, lines)
            shutil.rmtree(self.parts)
        return rows

    def _refuse(self, skipped: list[tuple[str, str]]) -> None:
        """Raises what :meth:`Crops.check_skipped` says, leaving nothing behind."""
        shutil.rmtree(self.parts, ignore_errors=True)
        self.crops.without(skipped).check_skipped(self.max_bad)

    def _begin(self) -> None:
        """Keeps the parts of an earlier run of the same settings, and removes those of others."""
        job = self.parts / _JOB
        try:
            same = json.loads(job.read_text(encoding="utf-8")) == self.settings
        except (OSError, ValueError):
            same = False
        if same:
            logger.info("going on with the parts in %s", self.parts)
            return
        if self.parts.is_dir():
            shutil.rmtree(self.parts)
        write_text(job, json.dumps(self.settings))

    def _part(self, number: int, count: int) -> list[tuple[str, str]]:
        """Makes sure of one part; returns what of it cannot be used."""
        path = self.parts / f"{number:06d}.npz"
        if path.is_file():
            skipped = read_embeddings(path).about["skipped"]
            return [(str(file), str(reason)) for file, reason in skipped]
        first = number * self.block
        crops = self.crops.part(first, first + self.block)
        label = f"block {number + 1} of {count}"
        crops = crops.without(self.store.try_images(crops.records(), label, self.least_side))
        z = torch.zeros(0, self.model.feature_dim)
        if len(crops):
            z = embed_records(
                self.model, self.store, crops.records(), label, self.tta, self.normalize, keep=False
            )
        self.store.release_images()
        pids = None if crops.pids is None else texts(crops.pids)
        table = EmbeddingTable(
            texts(crops.names), texts(crops.cameras), z.cpu().numpy(), pids,
            {**self.about, "skipped": crops.skipped},
        )  # fmt: skip
        write_embeddings(path, table)
        return crops.skipped

    def _tables(self, count: int) -> Iterator[EmbeddingTable]:
        for number in range(count):
            table = read_embeddings(self.parts / f"{number:06d}.npz")
            table.about = self.about
            yield table
