"""Feature extraction: embeddings of image files by torchreid's loop and by the banks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.feature_bank import View, extract_features, flip_views
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.floors import forward_operations
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, timed
from embae_plugin.lab.benchmark.sizes import Sizes
from embae_plugin.lab.benchmark.stock_training_speed import (
    NORM,
    TEST_BATCH,
    build_model,
    extract_seconds,
    read_records,
    workers,
)
from embae_plugin.models.embae import EmbAE

SUBJECT = "features"
GPU_IMAGES = 10  # times as many, for the same reason as in training


def embed_bank(model: EmbAE, bank: ImageBank, sizes: Sizes, views: Sequence[View]) -> torch.Tensor:
    """Embeddings of decoded images, averaged over views."""
    size = (sizes.height, sizes.width)
    features = extract_features(model.trunk, bank, views, size, NORM, NORM)
    return embed_views(model.f_emb, features)


def _rows(context: Context, device: str) -> list[Row]:
    sizes = context.sizes
    count = sizes.extract_images * (GPU_IMAGES if device == "cuda" else 1)
    # torchreid's first batch is not timed, so it is given one more
    root = context.crops(1, 1, count + TEST_BATCH)
    paths = read_records(root, "gallery").paths[:count]
    model = build_model(sizes).to(device).eval()

    def read() -> ImageBank:
        return ImageBank(paths, sizes.height, sizes.width, device, label="crops")

    bank, one, both = read(), flip_views(False), flip_views(True)
    tasks = [
        lambda: context.stock.call(extract_seconds, root, sizes, device),
        lambda: extract_seconds(root, sizes, device),
        timed(lambda: embed_bank(model, read(), sizes, one), device),
        timed(lambda: embed_bank(model, bank, sizes, one), device),
        timed(lambda: embed_bank(model, read(), sizes, both), device),
    ]
    label = f"features on {device}, torchreid | tuned | files | decoded | mirrored too"
    return _table(context, device, count, root, alternate(label, tasks, context.repeats))


def _table(
    context: Context, device: str, count: int, root: Path, taken: list[list[float]]
) -> list[Row]:
    sizes = context.sizes
    name = f"torchreid {bridge.VERSION}, Engine"
    as_users, tuned = (Measured(tuple(t), "s", name).as_rate(1, "img/s") for t in taken[:2])
    files, decoded = (Measured(tuple(t), "s").as_rate(count, "img/s") for t in taken[2:4])
    mirrored = Measured(tuple(taken[4]), "s").as_rate(2 * count, "views/s")
    operations = forward_operations(build_model(sizes), sizes.height, sizes.width)
    floor = 1 / context.rates_of(device).operations(operations)
    text = "operations of trunk and head"
    scale = f"{sizes.trunk} and f_emb at {sizes.height} × {sizes.width}"
    size = f"{count:,} JPEG crops of 128 × 64 to embeddings, {scale}"
    return [
        Row(SUBJECT, "one view, first run", device, as_users, files, floor, text,
            f"both from JPEG files. torchreid: float32, batches of {TEST_BATCH} from {workers()} "
            "loader processes, in a process of its own with the C library's defaults, without its "
            "first batch. Ours: float32, decoding included", size),
        Row(SUBJECT, "one view, first run, torchreid tuned", device, tuned, files, floor,
            text, "torchreid in this process, where the allocator keeps freed memory, as `embae` "
            "commands set it", size),
        Row(SUBJECT, "one view, images decoded before", device, as_users, decoded, floor,
            text, "every pass after the first; torchreid decodes each time", size),
        Row(SUBJECT, "with its mirror image, first run", device,
            Measured(as_users.values, "views/s", name), mirrored, floor, text,
            "views a second; torchreid has one view of each image, and would run twice for two",
            size),
    ]  # fmt: skip


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    return context.on_each_device(
        SUBJECT, "files to embeddings", lambda device: _rows(context, device)
    )
