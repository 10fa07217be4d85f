"""A run of three stages that takes a second or two, for tests that kill, starve or break it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.evaluation.score_table import score_row, write_results
from embae_plugin.methods import ImageAutoencoderEngine, ImageEmbeddingEngine, ImageTransferEngine
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.tiny import pick, tiny_store, two_layer_model, write_crops

STAGES = ("embedding", "autoencoder-camera", "transfer-cam")


def write_world(folder: Path) -> None:
    """A source, a target and its test images: 66 crops."""
    write_crops(folder / "a", 6, 2, 3)
    write_crops(folder / "t", 5, 2, 3)
    write_crops(folder / "test", 4, 2, 2)


def records(folder: Path) -> ImageRecords:
    """The crops in a folder, in the order of their names."""
    files = sorted(folder.iterdir())
    return ImageRecords.from_items([(str(f), int(f.name[:4]), int(f.name[6]), 0) for f in files])


def run(world: Path, out: Path) -> None:
    """The three stages, saved after every epoch, and ``results.json``."""
    test = records(world / "test")
    first = np.array([path.endswith("_0.png") for path in test.paths])
    data = ReIDData(
        sources=["a"], source=records(world / "a"), target="t",
        target_train=records(world / "t").unlabelled(),
        query=pick(test, first), gallery=pick(test, ~first),
    )
    model = two_layer_model()
    common: dict[str, Any] = {"use_gpu": False, "seed": 3, "store": tiny_store(out / "features")}
    stage_1 = ImageEmbeddingEngine(
        data, model, batch_size=6, num_instances=2, transforms=["random_flip"], **common
    )
    stage_1.run(out, max_epoch=4, save_interval=0)
    stage_2 = ImageAutoencoderEngine(data, model, "camera", batch_size=8, **common)
    stage_2.run(out, max_epoch=4, save_interval=0)
    stage_3 = ImageTransferEngine(data, model, "cam", nuisance_epoch=3, batch_size=8, **common)
    stage_3.run(out, max_epoch=3, save_interval=0)
    write_results(out / "results.json", "t", [score_row("cam", stage_3.scores())])


def outcome(out: Path) -> str:
    """A hash over the weights and histories of all stages, and the scores, of a finished run."""
    total = hashlib.blake2b((out / "results.json").read_bytes())
    for stage in STAGES:
        payload = load_checkpoint(out / stage / "last.pth")
        for name, value in sorted(payload["model"].items()):
            total.update(name.encode() + value.numpy().tobytes())
        total.update(json.dumps(payload["history"]).encode())
    return total.hexdigest()


def start(function: Callable[..., Any], *arguments: Any, log: Path | None = None) -> BaseProcess:
    """``function(*arguments)`` in a process of its own; an error's text goes to ``log``."""

    def work() -> None:
        torch.set_num_threads(1)
        try:
            function(*arguments)
        except BaseException:
            if log is not None:
                log.write_text(traceback.format_exc(), encoding="utf-8")
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process
