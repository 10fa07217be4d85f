"""Stage 1: images a second of torchreid's triplet engine and of ours, same trunk, same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.drawn_crops import CAMERAS
from embae_plugin.lab.benchmark.floors import forward_operations
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate
from embae_plugin.lab.benchmark.sizes import Sizes
from embae_plugin.lab.benchmark.stock_training_speed import (
    BATCH,
    INSTANCES,
    NORM,
    Clock,
    build_model,
    read_data,
    train_seconds,
    workers,
)
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.training.loop import Phase
from embae_plugin.training.train_step import resolve_precision

SUBJECT = "training"
GPU_STEPS = 20  # times as many: a GPU's steps are short, and the loader has a head start


class _TimedPhase:
    """A phase that ticks a clock after each of its steps."""

    def __init__(self, phase: Phase, clock: Clock) -> None:
        self._phase, self._clock = phase, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phase, name)

    def step(self, epoch: int, step: int) -> Any:
        values = self._phase.step(epoch, step)
        self._clock.tick(BATCH)
        return values


class _TimedEngine(ImageEmbeddingEngine):
    clock: Clock

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        return [_TimedPhase(super().phases(max_epoch)[0], self.clock)]


def ours_seconds(
    root: Path, sizes: Sizes, device: str, folder: Path, store: FeatureStore, **settings: Any
) -> float:
    """Seconds per image of one epoch of stage 1."""
    engine = _TimedEngine(
        read_data(root), build_model(sizes), transforms=["random_flip"], batch_size=BATCH,
        num_instances=INSTANCES, use_gpu=device == "cuda", store=store, **settings,
    )  # fmt: skip
    engine.clock = Clock(device)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("embedding/*"):
        left.unlink()  # or the engine would find itself done
    engine.run(save_dir=folder, max_epoch=1, save_interval=1e9)
    return engine.clock.seconds_per_image()


def _rows(context: Context, device: str) -> list[Row]:
    sizes = context.sizes
    steps = sizes.train_steps * (GPU_STEPS if device == "cuda" else 1)
    root = context.crops((steps + 1) * BATCH, 1, 1)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    folder = context.folder / f"training-{device}"
    tasks = [
        lambda: context.stock.call(train_seconds, root, sizes, device),
        lambda: train_seconds(root, sizes, device),
        lambda: ours_seconds(root, sizes, device, folder, store),
        lambda: ours_seconds(root, sizes, device, folder, store, camera_norm=True),
    ]
    what = f"training on {device}, torchreid | tuned | ours | ours by camera"
    taken = alternate(what, tasks, context.repeats)
    as_users, tuned, mine, by_camera = (Measured(tuple(t), "s").as_rate(1, "img/s") for t in taken)
    bf16 = resolve_precision("auto", store.device)
    operations = 3 * forward_operations(build_model(sizes), sizes.height, sizes.width)
    floor = 1 / context.rates_of(device).operations(operations, bf16)
    size = f"{sizes.trunk}, batches of {BATCH}, {sizes.height} × {sizes.width}, {steps} steps"
    name = f"torchreid {bridge.VERSION}, ImageTripletEngine"
    text = "3 × the operations of a forward pass"
    return [
        Row(SUBJECT, "stage 1", device, Measured(as_users.values, "img/s", name), mine, floor, text,
            f"torchreid: float32, files read by {workers()} loader processes, in a process of its "
            f"own with the C library's defaults. Ours: {'bfloat16' if bf16 else 'float32'}, images "
            "decoded once before. The first step is in neither", size),
        Row(SUBJECT, "stage 1, torchreid tuned", device, Measured(tuned.values, "img/s", name),
            mine, floor, text, "torchreid in this process, where the allocator keeps freed memory, "
            "as `embae` commands set it", size),
        Row(SUBJECT, "stage 1, by camera", device, replace(mine, who="stage 1 as above"),
            by_camera, floor, text, f"embae.embedding.camera_norm, batches of {CAMERAS} cameras; "
            "the one pass for statistics afterwards is left out", size),
    ]  # fmt: skip


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    return context.on_each_device(SUBJECT, "stage 1", lambda device: _rows(context, device))
