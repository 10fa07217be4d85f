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
from embae_plugin.lab.benchmark import stock_torchreid as stock
from embae_plugin.lab.benchmark.context import CAMERAS, Context, Sizes, read_data, read_records
from embae_plugin.lab.benchmark.machine import operations_of
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, seconds
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.training.phase import Phase
from embae_plugin.training.train_step import resolve_precision

# Times as many: a GPU's steps are short, and the loader has a head start
GPU_STEPS, GPU_IMAGES = 20, 10
TUNED = ("torchreid in this process, where the allocator keeps freed memory, as `embae` commands "
         "set it")


@torch.no_grad()
def forward_operations(sizes: Sizes) -> int:
    """Operations of the network for one image."""
    model = stock.build_model(sizes).eval()
    return operations_of(lambda: model(torch.zeros(1, 3, sizes.height, sizes.width)))


class _TimedEngine(ImageEmbeddingEngine):
    clock: stock.Clock

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        phase = super().phases(max_epoch)[0]
        step = phase.step

        def timed(epoch: int, number: int) -> dict[str, torch.Tensor]:
            values = step(epoch, number)
            self.clock.tick(stock.BATCH)
            return values

        phase.step = timed  # type: ignore[method-assign, assignment]
        return [phase]


def _train(root: Path, sizes: Sizes, folder: Path, store: FeatureStore, **settings: Any) -> float:
    """Images a second of one epoch of our stage 1."""
    device = torch.device(store.device).type
    engine = _TimedEngine(
        read_data(root), stock.build_model(sizes), transforms=["random_flip"], store=store,
        batch_size=stock.BATCH, num_instances=stock.INSTANCES, use_gpu=device == "cuda", **settings,
    )
    engine.clock = stock.Clock(device)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("embedding/*"):
        left.unlink()  # or the engine would find itself done
    engine.run(save_dir=folder, max_epoch=1, save_interval=1e9)
    return 1 / engine.clock.seconds_per_image()


def _beside(
    context: Context, device: str, theirs: Callable[..., float], root: Path, engine: str,
    ours: list[Callable[[], float]],
) -> list[Measured]:
    """Images a second: torchreid's as its users run it, its in this process, and ours."""
    given = (root, context.sizes, device)
    tasks = [lambda: 1 / context.stock.call(theirs, *given), lambda: 1 / theirs(*given), *ours]
    taken = alternate(f"{engine} on {device}, torchreid | tuned | ours", tasks, context.repeats)
    names = [f"torchreid {bridge.VERSION}, {engine}"] * 2 + [""] * len(ours)
    return [Measured(one, "img/s", name) for one, name in zip(taken, names, strict=True)]


def training_rows(context: Context, device: str) -> list[Row]:
    """One epoch of torchreid's triplet engine and of ours, with the same batches."""
    sizes = context.sizes
    steps = sizes.train_steps * (GPU_STEPS if device == "cuda" else 1)
    root = context.crops((steps + 1) * stock.BATCH, 1, 1)
    store = FeatureStore(sizes.height, sizes.width, stock.NORM, stock.NORM, device)
    ours = partial(_train, root, sizes, context.folder / f"training-{device}", store)
    users, tuned, mine, by_camera = _beside(
        context, device, stock.train_seconds, root, "ImageTripletEngine",
        [ours, partial(ours, camera_norm=True)],
    )
    bf16 = resolve_precision("auto", store.device)
    row = partial(
        Row, "training", device=device, floor_text="3 × the operations of a forward pass",
        floor=1 / context.rates[device].operations(3 * forward_operations(sizes), bf16),
        size=f"{sizes.trunk}, batches of {stock.BATCH}, {sizes.height} × {sizes.width}, {steps} "
        "steps",
    )
    return [
        row("stage 1", stock=users, ours=mine, note="torchreid: float32, files read by "
            f"{stock.workers()} loader processes, in a process of its own with the C library's "
            f"defaults. Ours: {'bfloat16' if bf16 else 'float32'}, images decoded once before. "
            "The first step is in neither"),
        row("stage 1, torchreid tuned", stock=tuned, ours=mine, note=TUNED),
        row("stage 1, by camera", stock=replace(mine, who="stage 1 as above"), ours=by_camera,
            note=f"embae.embedding.camera_norm, batches of {CAMERAS} cameras; the one pass for "
            "statistics afterwards is left out"),
    ]


def feature_rows(context: Context, device: str) -> list[Row]:
    """Embeddings of image files by torchreid's loop and by the banks."""
    sizes, size, both = context.sizes, (context.sizes.height, context.sizes.width), flip_views(True)
    count = sizes.extract_images * (GPU_IMAGES if device == "cuda" else 1)
    # torchreid's first batch is not timed, so it is given one more
    root = context.crops(1, 1, count + stock.TEST_BATCH)
    paths = read_records(root, "gallery").paths[:count]
    model = stock.build_model(sizes).to(device).eval()

    def read() -> ImageBank:
        return ImageBank(paths, *size, device, label="crops")

    def embed(bank: ImageBank, views: Sequence[View]) -> torch.Tensor:
        features = extract_features(model.trunk, bank, views, size, stock.NORM, stock.NORM)
        return embed_views(model.f_emb, features)

    bank = read()
    users, tuned, files, decoded, mirrored = _beside(
        context, device, stock.extract_seconds, root, "Engine", [
            lambda: count / seconds(lambda: embed(read(), both[:1]), device),
            lambda: count / seconds(lambda: embed(bank, both[:1]), device),
            lambda: 2 * count / seconds(lambda: embed(read(), both), device),
        ])
    row = partial(
        Row, "features", device=device, floor_text="operations of trunk and head",
        floor=1 / context.rates[device].operations(forward_operations(sizes)),
        size=f"{count:,} JPEG crops of 128 × 64 to embeddings, {sizes.trunk} and f_emb at "
        f"{sizes.height} × {sizes.width}",
    )
    return [
        row("one view, first run", stock=users, ours=files, note="both from JPEG files. "
            f"torchreid: float32, batches of {stock.TEST_BATCH} from {stock.workers()} loader "
            "processes, in a process of its own with the C library's defaults, without its first "
            "batch. Ours: float32, decoding included"),
        row("one view, first run, torchreid tuned", stock=tuned, ours=files, note=TUNED),
        row("one view, images decoded before", stock=users, ours=decoded,
            note="every pass after the first; torchreid decodes each time"),
        row("with its mirror image, first run", stock=replace(users, unit="views/s"),
            ours=replace(mirrored, unit="views/s"), note="views a second; torchreid has one view "
            "of each image, and would run twice for two"),
    ]
