"""Adapts a model to your own cameras, from crops that nobody has labelled.

  embae adapt --images crops --checkpoint osnet_x0_25_msmt17.pth --out adapted
  embae adapt --images crops --camera-regex '_c(?P<camera>\\d+)' --checkpoint … --out …
  embae adapt --csv crops.csv --checkpoint … --out …

crops/ holds one folder for each camera, unless --camera-regex or --csv identifies the cameras.
Sizes and formats (jpg, png, bmp, webp) may be mixed. The model is a file of torchreid's zoo, of
embae train, or any other that embae models lists. Leaves in --out: adapted.pth, torchreid/ (weights
that trackers load, one file for each camera, if the network is one of torchreid's), summary.txt
and summary.json (what changed), before.npz and after.npz (the crops' embeddings), skipped.txt
(crops that cannot be used, if any). Re-running the same command resumes. Several GPUs, or
machines: docs/scaling.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from embae_plugin import distributed
from embae_plugin.commands.adaptation_summary import summary_text
from embae_plugin.commands.job_folder import JobFolder, Skipped, explained_disk_errors
from embae_plugin.commands.shared_arguments import (
    add_checkpoint_arguments,
    add_crop_arguments,
    add_method_arguments,
    crops_of,
    joined,
    model_of,
)
from embae_plugin.data.crops import Crops, describe_cameras
from embae_plugin.data.embedding_files import write_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import load_data, queries_and_gallery
from embae_plugin.embedder import crops_table, embed_records
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.evaluation.change import measure_change
from embae_plugin.evaluation.score_table import Row, score_row, write_text
from embae_plugin.export.torchreid_files import write_torchreid_files
from embae_plugin.methods.recipe import adapt, check_adaptable, followed_keys
from embae_plugin.methods.registry import BASELINE, chain, rows
from embae_plugin.methods.run_settings import AdaptSettings
from embae_plugin.methods.time_ahead import seconds_ahead
from embae_plugin.models.bundle import ADAPTED, Bundle, save_bundle
from embae_plugin.reid import pick_device
from embae_plugin.runtime import log_to
from embae_plugin.settings.checks import refuse_others
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.settings.tree import StoreSettings, flatten
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

TORCHREID_FILES = "torchreid"  # folder of weights that trackers load
PLAIN = "plain.pth"  # the network for who names no camera
RESULTS = (TORCHREID_FILES, "skipped.txt", "before.npz", "after.npz", "summary.json",
           "summary.txt", PLAIN, ADAPTED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_crop_arguments(parser)
    add_checkpoint_arguments(parser)
    add = parser.add_argument
    add("--out", required=True, help="folder of the results")
    add("--sources", nargs="+", default=[], metavar="NAME",
        help="labelled data sets on which embae.adapt.method reconstruction learns its autoencoder "
        "(default: the crops themselves)")
    add("--root", default="reid-data", help="folder of those data sets")
    add("--force", action="store_true", help="replace earlier results in --out")
    add("--seed", type=int, default=1, help="default: 1")
    add_method_arguments(parser, "embae.adapt.method NAME chooses the method:",
                         [(row.name, row.help) for row in rows().values() if row.adapts])


def config_of(arguments: argparse.Namespace) -> CfgNode:
    """The configuration of a command line.

    Raises:
        ValueError: a setting that is impossible, or that the method does not read.
    """
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"--seed {arguments.seed}: from 0 to {2**32 - 1}")
    cfg, given = load_config("", arguments.opts), arguments.opts[0::2]
    cfg.train.seed, cfg.data.root = arguments.seed, arguments.root
    cfg.data.sources, cfg.data.targets = list(arguments.sources), []
    cfg.loss.name, cfg.model.name, cfg.embae.stages = "embae", "embae_mobilenetv1", ["autoencoder"]
    cfg.embae.variants = [BASELINE]
    refuse_others(given, {"embae."}, "embae adapt follows settings that begin with embae., and its "
                  "own flags (--seed, --device, --height, --width, --root)")
    check_config(cfg)
    method, followed = cfg.embae.adapt.method, followed_keys(cfg) | StoreSettings.followed()
    refuse_others(given, followed, f"embae.adapt.method {method} does not read it; it reads "
                  f"{', '.join(sorted(followed))}")
    steps = chain(AdaptSettings.of(cfg).row(), cfg)
    if arguments.sources and not any(row.name.startswith("autoencoder") for row in steps):
        raise ValueError(f"--sources are for embae.adapt.method reconstruction alone; it is "
                         f"{method}, which learns from the crops")
    return cfg


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    cfg = config_of(arguments)
    with joined(arguments):
        first = distributed.rank() == 0
        with log_to(None, arguments.verbose, quiet=not first):
            work = CropAdaptation(arguments, cfg)
        out = work.folder.out
        log_file = out / "adapt.log" if first else None
        with log_to(log_file, arguments.verbose, quiet=not first), explained_disk_errors(out):
            content = work.run()
            if first:
                _tell(out, content)
    return 0


def _tell(out: Path, content: dict[str, Any]) -> None:
    logger.info("done\n\n%s\n", summary_text(content))
    files = "adapted.pth, plain.pth" if (out / PLAIN).is_file() else "adapted.pth"
    files += ", summary.txt, summary.json, before.npz, after.npz"
    if (out / TORCHREID_FILES).is_dir():
        files += f", and weights for trackers in {TORCHREID_FILES}/"
    logger.info("written to %s: %s", out, files)


class CropAdaptation:
    """One run of the command; made without writing anything, so that mistakes leave nothing.

    (Several processes do leave what resumes: decoded images, in files that they share.)
    The adaptation itself is :mod:`embae_plugin.methods.recipe`'s. Here is what is around it:
    reading, checking, resuming, comparing before and after, and leaving nothing half done.

    Raises:
        FileNotFoundError, ValueError: nothing can come of this; the message says why.
    """

    def __init__(self, arguments: argparse.Namespace, cfg: CfgNode) -> None:
        self.checkpoint, self.cfg, device = arguments.checkpoint, cfg, pick_device(arguments.device)
        self.command = getattr(arguments, "command", "")
        cfg.use_gpu = device.type == "cuda"
        with distributed.rank_zero_first():  # which may fetch the model
            self.source = model_of(arguments)
        crops = crops_of(arguments)
        self.model = self.source.model
        check_adaptable(self.model, cfg)
        self.model.to(device)
        self.labelled = load_data(cfg).source if arguments.sources else None
        self.folder = JobFolder(arguments.out, RESULTS, self._settings(crops))
        self.force, self.alone = arguments.force, distributed.size() == 1
        distributed.check_same("what is adapted to", self.folder.settings)
        self.skipped = distributed.from_rank_zero(lambda: self.folder.found(self.force))
        images = "" if self.alone else self.folder.work / "images"
        self.store = FeatureStore.of(
            self.source.input, device, cache_dir=self.folder.work / "features",
            image_cache_dir=cfg.embae.cache_dir or images,
            memory_share=cfg.embae.image_memory_share,
        )
        self.resumed = self.skipped is not None
        self.crops, self.limits = crops, (arguments.min_side, arguments.max_bad)
        if self.alone:
            self._leave_out()

    def _leave_out(self) -> Skipped:
        """Images that cannot be used, which :attr:`crops` is without from now on.

        Raises:
            ValueError: they are more than ``--max-bad`` allows.
        """
        least_side, max_bad = self.limits
        if self.skipped is None:
            with distributed.apart():
                self.skipped = self.store.try_images(self.crops.records(), "crops", least_side)
        self.crops = self.crops.without(self.skipped)
        self.crops.check_skipped(max_bad)
        logger.info("%s", describe_cameras(self.crops))
        if len(self.crops.camera_names) == 1:
            logger.warning("all images are of one camera: the model adapts to its look, but "
                           "nothing is learned or measured across cameras")
        return self.skipped

    def _share_images(self) -> None:
        """Gives all processes the crops of the first, and their images, which are in a file."""
        skipped = distributed.from_rank_zero(lambda: self.skipped)
        if distributed.rank():
            self.crops = self.crops.without(skipped or ())
        self.store.release_images()
        self.store.images(self.crops.records(), "crops")

    def _settings(self, crops: Crops) -> dict[str, Any]:
        """What a run that resumes must have in common with the one that was stopped."""
        total = hashlib.blake2b(digest_size=8)
        for name, camera in zip(crops.names, crops.cameras, strict=True):
            total.update(f"{name}\0{camera}\0".encode(errors="surrogateescape"))
        flat, read = flatten(self.cfg), followed_keys(self.cfg) - StoreSettings.followed()
        return {
            "checkpoint": state_fingerprint(self.model),
            "images": f"{len(crops)} ({total.hexdigest()})",
            "seed": self.cfg.train.seed,
            "input": self.source.input.as_dict(),
            **({} if self.labelled is None else {"sources": self.labelled.fingerprint()}),
            **{key: flat[key] for key in sorted(read)},  # in one order in every process
        }

    def run(self) -> dict[str, Any]:
        """Adapts and writes everything; returns what summary.json holds.

        Of several processes the first writes, and locks the folder; refused, it ends all.

        Raises:
            ValueError: another run is at work in the folder.
            OSError: a full disk, or another failure to write; re-running the command resumes.
        """
        anew = not self.resumed
        skipped = (self.skipped or []) if self.alone else self._leave_out
        fill = self.folder.filling(skipped, anew, anew and self.force, self.command)
        with fill if distributed.rank() == 0 else nullcontext():
            if not self.alone:
                self._share_images()
            return self._run()

    def _run(self) -> dict[str, Any]:
        """:meth:`run`, alone in its folder."""
        started, crops, out, model = time.monotonic(), self.crops, self.folder.out, self.model
        records = crops.records()
        if crops.skipped and distributed.rank() == 0:
            lines = "".join(f"{path}\t{reason}\n" for path, reason in crops.skipped)
            write_text(out / "skipped.txt", lines)
            logger.warning("%d image(s) cannot be used, see %s", len(crops.skipped),
                           out / "skipped.txt")
        timed = self.alone and not self.resumed  # how several share the work is not foreseen
        ahead = seconds_ahead(model, records, self.store, self.cfg) if timed else None
        if ahead is not None:
            hours, minutes = divmod(max(1, round(ahead / 60)), 60)
            logger.info("about %d:%02d (hours:minutes) for %s of %s crops, by a few batches that "
                        "were timed", hours, minutes, self.cfg.embae.adapt.method,
                        f"{len(crops):,}")
        trained = model.f_nui is not None and self.source.about.get("stage") != "embedding"
        adapted = adapt(model, records, self.store, self.cfg, self.folder.work, self.labelled,
                        has_autoencoder=trained)
        models = {"before": model, "after": adapted.model.eval()}
        z = {when: embed_records(one, self.store, records, "crops") for when, one in models.items()}
        plain = {}
        if adapted.plain is not None and crops.pids is not None:
            plain["plain"] = embed_records(adapted.plain, self.store, records, "crops")
        content: dict[str, Any] = {
            "checkpoint": self.checkpoint, "images": len(crops), "cameras": crops.counts(),
            "skipped": len(crops.skipped), "seed": self.cfg.train.seed,
            "method": dict(adapted.summary),
            "change": measure_change(
                z["before"], z["after"], crops.numbers(),
                same_space=model.feature_name == adapted.model.feature_name,
            )._asdict(),
            "scores": _scores(crops, {"baseline": z["before"], "adapted": z["after"], **plain}),
            "history": list(adapted.history), "seconds": round(time.monotonic() - started, 1),
        }
        if distributed.rank():
            return content
        for when, one in models.items():
            about = {"model": state_fingerprint(one), "root": str(crops.root.resolve()),
                     "normalized": True, "tta": "flip"}
            write_embeddings(out / f"{when}.npz", crops_table(crops, z[when], about))
        write_text(out / "summary.json", json.dumps(content, indent=1, default=float) + "\n")
        write_text(out / "summary.txt", summary_text(content) + "\n")
        about = {key: content[key] for key in ("checkpoint", "images", "cameras", "seed")}
        bundle = Bundle(adapted.model, self.source.input, about)
        if adapted.plain is not None:
            save_bundle(out / PLAIN, Bundle(adapted.plain, self.source.input, about))
        if bundle.model.architecture:
            write_torchreid_files(bundle, out / TORCHREID_FILES, adapted.plain)
        save_bundle(out / ADAPTED, bundle)
        return content


def _scores(crops: Crops, embeddings: dict[str, torch.Tensor]) -> list[Row]:
    """Both protocols, each labelled crop a query among the others; [] without identities."""
    names = crops.pids or ("",) * len(crops)
    asked, searched = map(np.flatnonzero, queries_and_gallery(names))
    if not len(asked):
        return []
    pids, cameras = np.unique(names, return_inverse=True)[1].reshape(-1), crops.numbers()
    table = []
    for name, z in embeddings.items():
        # A query and its copy in the gallery are of one camera, which both protocols ignore.
        scores = evaluate_embeddings(
            z[asked], z[searched], pids[asked], pids[searched], cameras[asked], cameras[searched]
        )
        table.append(score_row(name, scores))
    return table
