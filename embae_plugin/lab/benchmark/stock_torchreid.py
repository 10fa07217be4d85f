"""torchreid's training and feature extraction, with its own loaders, engines and defaults.

The functions that time are made to be called in another process: their arguments are plain, and
each sets up all it needs before the clock starts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.parallel import cpu_count
from embae_plugin.lab.benchmark.context import DATASET, Sizes
from embae_plugin.lab.benchmark.measure import synchronise
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk

BATCH, INSTANCES, TEST_BATCH = 72, 4, 100  # the paper's P × K and K; torchreid's test.batch_size
WORKERS = 4  # torchreid's default
NORM = (0.5, 0.5, 0.5)


def build_model(sizes: Sizes, num_classes: int = 0) -> EmbAE:
    """The model that both sides run; its weights are random, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    trunk = build_trunk(sizes.trunk, generator=generator)
    return EmbAE(trunk, num_classes, "triplet" if num_classes else "embae", generator=generator)


def workers() -> int:
    """torchreid's default number of loader processes, but no more than there are cores."""
    return min(WORKERS, cpu_count())


def build_datamanager(
    root: Path, sizes: Sizes, device: str, train_sampler: str = "RandomSampler"
) -> bridge.ImageDataManager:
    """torchreid's data manager over the crops below ``root``."""
    return bridge.build_datamanager(
        root=str(root), sources=DATASET, targets=DATASET, height=sizes.height, width=sizes.width,
        transforms="random_flip", norm_mean=list(NORM), norm_std=list(NORM),
        use_gpu=device == "cuda", batch_size_train=BATCH, batch_size_test=TEST_BATCH,
        workers=workers(), num_instances=INSTANCES, train_sampler=train_sampler,
    )


class Clock:
    """Ticks at the end of every step; the first step is left out of the time.

    It holds what happens once: loader processes starting, memory reserved, a graph captured. What
    comes after the last step is left out as well. On a GPU a tick is an event in its queue.
    """

    def __init__(self, device: str) -> None:
        self._device, self._ticks, self._images = device, list[Any](), 0

    def tick(self, amount: int = 1) -> None:
        """A step on ``amount`` images is over, or enqueued."""
        self._images += amount if self._ticks else 0
        if self._device == "cuda":
            self._ticks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._ticks[-1].record()
        else:
            self._ticks.append(time.perf_counter())

    def seconds_per_image(self) -> float:
        """The mean over all steps but the first, of which there must be any."""
        if len(self._ticks) < 2:
            raise ValueError(f"{len(self._ticks)} step(s) are too few to time: 2 are the least")
        synchronise(self._device)
        first, last = self._ticks[0], self._ticks[-1]
        taken = first.elapsed_time(last) / 1e3 if self._device == "cuda" else last - first
        return float(taken) / self._images


@contextlib.contextmanager
def as_its_script(device: str) -> Iterator[None]:
    """torchreid's ``scripts/main.py`` has cuDNN look for its fastest kernels; here for a while."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device == "cuda"
    try:
        with bridge.quiet():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def train_seconds(root: Path, sizes: Sizes, device: str) -> float:
    """Seconds per image of one epoch of torchreid's ``ImageTripletEngine``, without softmax."""
    manager: Any = build_datamanager(root, sizes, device, "RandomIdentitySampler")
    model = build_model(sizes, manager.num_train_pids).to(device)
    optimizer = bridge.build_optimizer(model, optim="adam", lr=3e-4)
    clock = Clock(device)

    class Timed(bridge.ImageTripletEngine):  # type: ignore[misc]
        def forward_backward(self, data: Any) -> Any:
            summary = super().forward_backward(data)
            clock.tick(len(data["pid"]))
            return summary

    engine = Timed(manager, model, optimizer, weight_x=0, use_gpu=device == "cuda")
    engine.max_epoch = 1
    with as_its_script(device):
        engine.train(print_freq=10)
        return clock.seconds_per_image()


@torch.no_grad()
def extract_seconds(root: Path, sizes: Sizes, device: str) -> float:
    """Seconds per image of torchreid's feature extraction over the gallery, one view of each."""
    manager: Any = build_datamanager(root, sizes, device)
    model = build_model(sizes).to(device)
    engine = bridge.ImageTripletEngine(manager, model, None, use_gpu=device == "cuda")
    engine.set_model_mode("eval")
    clock = Clock(device)
    features = []
    with as_its_script(device):
        # The loop within Engine._evaluate, line by line
        for data in manager.test_loader[DATASET]["gallery"]:
            images, _, _ = engine.parse_data_for_eval(data)
            if engine.use_gpu:
                images = images.cuda()
            features.append(engine.extract_features(images).cpu())
            clock.tick(len(images))
    return clock.seconds_per_image()
