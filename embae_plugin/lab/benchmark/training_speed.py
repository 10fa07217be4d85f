"""Stage 1 and feature extraction: images a second of torchreid and of ours, on the same trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.feature_bank import FeatureStore, View, extract_features, flip_views
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.lab.benchmark.context import Context, Sizes
from embae_plugin.lab.benchmark.drawn_crops import CAMERAS, read_data, read_records
from embae_plugin.lab.benchmark.machine import operations_of
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, seconds
from embae_plugin.lab.benchmark.stock_torchreid import (
    BATCH,
    INSTANCES,
    NORM,
    TEST_BATCH,
    Clock,
    build_model,
    extract_seconds,
    train_seconds,
    workers,
)
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.training.loop import Phase
from embae_plugin.training.train_step import resolve_precision

# Times as many: a GPU's steps are short, and the loader has a head start
GPU_STEPS, GPU_IMAGES = 20, 10
TUNED = ("torchreid in this process, where the allocator keeps freed memory, as `embae` commands "
         "set it")


@torch.no_grad()
def forward_operations(sizes: Sizes) -> int:
    """Operations of the network for one image."""
    model = build_model(sizes).eval()
    return operations_of(lambda: model(torch.zeros(1, 3, sizes.height, sizes.width)))


class _TimedEngine(ImageEmbeddingEngine):
    clock: Clock

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        phase = super().phases(max_epoch)[0]
        step = phase.step

        def timed(epoch: int, number: int) -> dict[str, torch.Tensor]:
            values = step(epoch, number)
            self.clock.tick(BATCH)
            return values

        phase.step = timed  # type: ignore[method-assign, assignment]
        return [phase]


def ours_seconds(
    root: Path, sizes: Sizes, device: str, folder: Path, store: FeatureStore, **settings: Any
) -> float:
    """Seconds per image of one epoch of stage 1."""
    engine = _TimedEngine(
        read_data(root), build_model(sizes), transforms=["random_flip"], batch_size=BATCH,
        num_instances=INSTANCES, use_gpu=device == "cuda", store=store, **settings,
    )
    engine.clock = Clock(device)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("embedding/*"):
        left.unlink()  # or the engine would find itself done
    engine.run(save_dir=folder, max_epoch=1, save_interval=1e9)
    return engine.clock.seconds_per_image()


def _both(
    context: Context, device: str, stock: Callable[..., float], root: Path, name: str,
    ours: list[Callable[[], float]],
) -> tuple[Measured, Measured, list[Measured]]:
    """torchreid's rate as its users run it and in this process, and seconds of ours."""
    given = (root, context.sizes, device)
    tasks = [lambda: context.stock.call(stock, *given), lambda: stock(*given), *ours]
    taken = alternate(f"{name} on {device}, torchreid | tuned | ours", tasks, context.repeats)
    users, tuned = (
        Measured(t, "s", f"torchreid {bridge.VERSION}, {name}").as_rate(1, "img/s")
        for t in taken[:2]
    )
    return users, tuned, [Measured(t, "s") for t in taken[2:]]


def training_rows(context: Context, device: str) -> list[Row]:
    """One epoch of torchreid's triplet engine and of ours, with the same batches."""
    sizes = context.sizes
    steps = sizes.train_steps * (GPU_STEPS if device == "cuda" else 1)
    root = context.crops((steps + 1) * BATCH, 1, 1)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    ours = partial(ours_seconds, root, sizes, device, context.folder / f"training-{device}", store)
    users, tuned, taken = _both(context, device, train_seconds, root, "ImageTripletEngine",
                                [ours, partial(ours, camera_norm=True)])
    mine, by_camera = (one.as_rate(1, "img/s") for one in taken)
    bf16 = resolve_precision("auto", store.device)
    row = partial(
        Row, "training", device=device, floor_text="3 × the operations of a forward pass",
        floor=1 / context.rates[device].operations(3 * forward_operations(sizes), bf16),
        size=f"{sizes.trunk}, batches of {BATCH}, {sizes.height} × {sizes.width}, {steps} steps",
    )
    return [
        row("stage 1", stock=users, ours=mine, note="torchreid: float32, files read by "
            f"{workers()} loader processes, in a process of its own with the C library's defaults. "
            f"Ours: {'bfloat16' if bf16 else 'float32'}, images decoded once before. The first "
            "step is in neither"),
        row("stage 1, torchreid tuned", stock=tuned, ours=mine, note=TUNED),
        row("stage 1, by camera", stock=replace(mine, who="stage 1 as above"), ours=by_camera,
            note=f"embae.embedding.camera_norm, batches of {CAMERAS} cameras; the one pass for "
            "statistics afterwards is left out"),
    ]


def feature_rows(context: Context, device: str) -> list[Row]:
    """Embeddings of image files by torchreid's loop and by the banks."""
    sizes, both = context.sizes, flip_views(True)
    count = sizes.extract_images * (GPU_IMAGES if device == "cuda" else 1)
    # torchreid's first batch is not timed, so it is given one more
    root = context.crops(1, 1, count + TEST_BATCH)
    paths = read_records(root, "gallery").paths[:count]
    model = build_model(sizes).to(device).eval()
    size = (sizes.height, sizes.width)

    def read() -> ImageBank:
        return ImageBank(paths, *size, device, label="crops")

    def embed(bank: ImageBank, views: Sequence[View]) -> torch.Tensor:
        features = extract_features(model.trunk, bank, views, size, NORM, NORM)
        return embed_views(model.f_emb, features)

    bank, one = read(), both[:1]
    works = [lambda: embed(read(), one), lambda: embed(bank, one), lambda: embed(read(), both)]
    users, tuned, taken = _both(context, device, extract_seconds, root, "Engine",
                                [partial(seconds, work, device) for work in works])
    files, decoded = (one.as_rate(count, "img/s") for one in taken[:2])
    row = partial(
        Row, "features", device=device, floor_text="operations of trunk and head",
        floor=1 / context.rates[device].operations(forward_operations(sizes)),
        size=f"{count:,} JPEG crops of 128 × 64 to embeddings, {sizes.trunk} and f_emb at "
        f"{sizes.height} × {sizes.width}",
    )
    return [
        row("one view, first run", stock=users, ours=files, note="both from JPEG files. "
            f"torchreid: float32, batches of {TEST_BATCH} from {workers()} loader processes, in a "
            "process of its own with the C library's defaults, without its first batch. Ours: "
            "float32, decoding included"),
        row("one view, first run, torchreid tuned", stock=tuned, ours=files, note=TUNED),
        row("one view, images decoded before", stock=users, ours=decoded,
            note="every pass after the first; torchreid decodes each time"),
        row("with its mirror image, first run", stock=replace(users, unit="views/s"),
            ours=taken[2].as_rate(2 * count, "views/s"), note="views a second; torchreid has one "
            "view of each image, and would run twice for two"),
    ]
