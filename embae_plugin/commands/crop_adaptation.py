"""From a checkpoint and a folder of unlabelled crops to an adapted model: `embae adapt`.

The adaptation itself is :mod:`embae_plugin.methods.recipe`'s. Here is what is around it: reading,
checking, going on after an interruption, comparing before and after, and leaving nothing half
done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from embae_plugin.commands.adaptation_summary import summary_text
from embae_plugin.commands.job_folder import JobFolder, explained_disk_errors
from embae_plugin.data.crops import Crops, describe_cameras
from embae_plugin.data.embedding_files import EmbeddingTable, texts, write_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.evaluation.change import measure_change
from embae_plugin.evaluation.score_table import Row, score_row, write_text
from embae_plugin.export.torchreid_files import write_torchreid_files
from embae_plugin.methods.recipe import adapt, check_adaptable, followed_keys
from embae_plugin.models.bundle import ADAPTED, Bundle, save_bundle
from embae_plugin.models.door import open_model
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.tree import StoreSettings, flatten
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

TORCHREID_FILES = "torchreid"  # folder of weights that trackers load
RESULTS = (
    TORCHREID_FILES, "skipped.txt", "before.npz", "after.npz", "summary.json", "summary.txt",
    ADAPTED,
)  # fmt: skip


class CropAdaptation:
    """One run of `embae adapt`; made without writing anything, so that mistakes leave nothing.

    Args:
        checkpoint: whatever :func:`open_model` opens.
        crops: what was listed, not decoded yet.
        out: the folder of results.
        cfg: the configuration.
        max_bad: share of images that may be unreadable.
        least_side: an image with fewer pixels on a side counts as unreadable.
        force: replace what is in ``out``.
        device: where to compute.
        height, width: of the network's input, in pixels; 0 takes the checkpoint's.
        arch: of a weight file, see :func:`open_model`.
        sources: labelled crops, see :func:`adapt`.

    Raises:
        FileNotFoundError, ValueError: nothing can come of this; the message says why.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        crops: Crops,
        out: str | Path,
        cfg: CfgNode,
        max_bad: float = 0.1,
        least_side: int = 8,
        force: bool = False,
        device: torch.device | str = "cpu",
        height: int = 0,
        width: int = 0,
        arch: str = "",
        sources: ImageRecords | None = None,
    ) -> None:
        self.checkpoint, self.cfg, self.seed = str(checkpoint), cfg.clone(), int(cfg.train.seed)
        self.device, self.sources = torch.device(device), sources
        self.cfg.use_gpu = self.device.type == "cuda"
        self.source = open_model(checkpoint, height, width, arch)
        check_adaptable(self.source.model, cfg)
        self.model = self.source.model.to(self.device)
        self.folder = JobFolder(out, RESULTS, self._settings(crops))
        notes = self.folder.found(force)
        self.crops, self.resumed = crops, notes is not None
        self.store = FeatureStore.of(
            self.source.input, self.device, cache_dir=self.folder.work / "features",
            image_cache_dir=cfg.embae.cache_dir, memory_share=cfg.embae.image_memory_share,
        )  # fmt: skip
        if notes is not None:
            self.crops = crops.without([(path, why) for path, why in notes["skipped"]])
        else:
            failures = self.store.try_images(crops.records(), "crops", least_side)
            self.crops = crops.without(failures)
        self.crops.check_skipped(max_bad)
        logger.info("%s", describe_cameras(self.crops))
        if len(self.crops.camera_names) == 1:
            logger.warning("all images are of one camera: the model adapts to its look, but "
                           "nothing is learned or measured across cameras")  # fmt: skip

    def _settings(self, crops: Crops) -> dict[str, Any]:
        total = hashlib.blake2b(digest_size=8)
        for name, camera in zip(crops.names, crops.cameras, strict=True):
            total.update(f"{name}\0{camera}\0".encode(errors="surrogateescape"))
        flat, free = flatten(self.cfg), StoreSettings.followed()
        options = {key: flat[key] for key in sorted(followed_keys(self.cfg) - free)}
        return {
            "checkpoint": state_fingerprint(self.model),
            "images": f"{len(crops)} ({total.hexdigest()})",
            "seed": self.seed,
            "input": self.source.input.as_dict(),
            **({} if self.sources is None else {"sources": self.sources.fingerprint()}),
            **options,
        }

    def run(self) -> dict[str, Any]:
        """Adapts and writes everything; returns what summary.json holds.

        Raises:
            OSError: a full disk, or another failure to write; the same command goes on.
        """
        out = self.folder.out
        with explained_disk_errors(out):
            self.folder.begin({"skipped": self.crops.skipped}, anew=not self.resumed)
            return self._run(out)

    def _run(self, out: Path) -> dict[str, Any]:
        started, crops = time.monotonic(), self.crops
        if crops.skipped:
            lines = "".join(f"{path}\t{reason}\n" for path, reason in crops.skipped)
            write_text(out / "skipped.txt", lines)
            logger.warning("%d image(s) cannot be used, see %s", len(crops.skipped),
                           out / "skipped.txt")  # fmt: skip
        name_of_source, feature_of_source = state_fingerprint(self.model), self.model.feature_name
        before = self._embed(self.model, crops.records())
        adapted = adapt(
            self.model, crops.records(), self.store, self.cfg, self.folder.work, self.sources,
            self._has_autoencoder(),
        )  # fmt: skip
        model = adapted.model.eval()
        after = self._embed(model, crops.records())
        content: dict[str, Any] = {
            "checkpoint": self.checkpoint, "images": len(crops), "cameras": crops.counts(),
            "skipped": len(crops.skipped), "seed": self.seed, "method": dict(adapted.summary),
            "change": measure_change(
                before, after, crops.numbers(), same_space=feature_of_source == model.feature_name
            )._asdict(),
            "scores": self._scores(before, after), "history": list(adapted.history),
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        self._write_embeddings(out / "before.npz", before, name_of_source)
        self._write_embeddings(out / "after.npz", after, state_fingerprint(model))
        write_text(out / "summary.json", json.dumps(content, indent=1, default=float) + "\n")
        write_text(out / "summary.txt", summary_text(content) + "\n")
        about = {key: content[key] for key in ("checkpoint", "images", "cameras", "seed")}
        bundle = Bundle(model, self.source.input, about)
        if model.architecture:
            write_torchreid_files(bundle, out / TORCHREID_FILES)
        save_bundle(out / ADAPTED, bundle)
        self.folder.finish()
        return content

    def _has_autoencoder(self) -> bool:
        """Whether stage 2 has trained the model's."""
        return self.model.f_nui is not None and self.source.about.get("stage") != "embedding"

    def _embed(self, model: EmbAE, records: ImageRecords) -> torch.Tensor:
        return embed_records(model, self.store, records, "crops", normalize=True)

    def _scores(self, before: torch.Tensor, after: torch.Tensor) -> list[Row]:
        """Both protocols, each labelled crop a query among the others; [] without identities."""
        if self.crops.pids is None:
            return []
        known = np.array([bool(pid) for pid in self.crops.pids])
        pids = np.unique(np.array(self.crops.pids)[known], return_inverse=True)[1].reshape(-1)
        cameras, rows = self.crops.numbers()[known], torch.from_numpy(np.flatnonzero(known))
        table = []
        for name, embeddings in (("baseline", before), ("adapted", after)):
            z = embeddings[rows.to(embeddings.device)]
            # A query and its copy in the gallery are of one camera, which both protocols ignore.
            table.append(score_row(name, evaluate_embeddings(z, z, pids, pids, cameras, cameras)))
        return table

    def _write_embeddings(self, path: Path, embeddings: torch.Tensor, model: str) -> None:
        crops = self.crops
        about = {"model": model, "root": str(crops.root.resolve()), "normalized": True,
                 "tta": "flip"}  # fmt: skip
        pids = None if crops.pids is None else texts(crops.pids)
        table = EmbeddingTable(
            texts(crops.names), texts(crops.cameras), embeddings.cpu().numpy(), pids, about
        )
        write_embeddings(path, table)
