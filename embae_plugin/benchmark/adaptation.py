"""The whole way of a target: files, features, adaptation by ``cam``, scores. Timed part by part."""

from __future__ import annotations

from yacs.config import CfgNode

from embae_plugin.benchmark.context import Context
from embae_plugin.benchmark.floors import (
    adam_traffic,
    forward_operations,
    reconstruction_operations,
)
from embae_plugin.benchmark.machine import Rates
from embae_plugin.benchmark.measure import Measured, Row, seconds
from embae_plugin.benchmark.ranking import product_floor
from embae_plugin.benchmark.stock import NORM, build_model, read_data
from embae_plugin.config import get_default_config
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.engine.scoring import score_model
from embae_plugin.engine.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.models.embae import EmbAE

SUBJECT = "adaptation"


def _engine(data: object, model: EmbAE, node: CfgNode, store: FeatureStore) -> ImageTransferEngine:
    """Stage 3 as ``embae train`` makes it from the default configuration."""
    return ImageTransferEngine(
        data, model, "cam", nuisance_epoch=node.nuisance_epoch, lr=node.lr,
        nuisance_lr=node.nuisance_lr, final_lr=node.final_lr, batch_size=node.batch_size,
        use_gpu=store.device.type == "cuda", store=store,
    )  # fmt: skip


def _stage_floor(rates: Rates, model: EmbAE, node: CfgNode, images: int) -> float:
    """Seconds for the operations and Adam's traffic of both phases of ``cam``."""
    total = 0.0
    for epochs, learn in (
        (node.nuisance_epoch, ("f_nui",)),
        (node.max_epoch, VARIANTS["cam"].learn),
    ):
        steps = epochs * max(1, images // node.batch_size)
        total += rates.operations(epochs * images * reconstruction_operations(model, learn))
        total += rates.traffic(steps * adam_traffic(model, learn))
    return total


def _rows(context: Context, device: str) -> list[Row]:
    sizes, node = context.sizes, get_default_config().embae.transfer
    data = read_data(context.crops(*sizes.target))
    model = build_model(sizes).to(device)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    splits: dict[str, ImageRecords | None] = {
        "target": data.target_train, "query": data.query, "gallery": data.gallery
    }  # fmt: skip
    records = [(label, split) for label, split in splits.items() if split is not None]
    images = sum(len(split) for _, split in records)

    def decode() -> None:
        for label, split in records:
            store.images(split, label)

    def extract() -> None:
        for label, split in records:
            store.features(model.trunk, split, label)

    def adapt() -> None:
        engine = _engine(data, model, node, store)
        engine.run(save_dir=context.folder / f"adaptation-{device}", max_epoch=node.max_epoch)

    def score() -> None:
        if data.query is not None and data.gallery is not None:
            score_model(model, store, data.query, data.gallery)

    rates = context.rates_of(device)
    forward = forward_operations(build_model(sizes), sizes.height, sizes.width)
    _, queries, gallery = sizes.target
    parts = [
        ("JPEG files decoded and resized", decode, 0.0, ""),
        ("trunk features, two views", extract, rates.operations(2 * images * forward),
         "operations of the trunk"),
        (f"stage 3 cam, {node.nuisance_epoch} + {node.max_epoch} epochs", adapt,
         _stage_floor(rates, model, node, sizes.target[0]),
         "operations of the heads, Adam's traffic"),
        ("scores, both protocols", score, product_floor(context, device, queries, gallery),
         "operations of the distance product"),
    ]  # fmt: skip
    rows = [
        Row(SUBJECT, what, device, ours=Measured((seconds(work, device),), "s"),
            floor=floor or None, floor_text=text)
        for what, work, floor, text in parts
    ]  # fmt: skip
    taken = sum(row.ours.median for row in rows if row.ours is not None)
    target = " + ".join(f"{count:,}" for count in sizes.target)
    whole = Row(
        SUBJECT, f"all of it: {target} images at {sizes.height} × {sizes.width}, {sizes.trunk}",
        device, ours=Measured((taken,), "s"), floor=sum(row.floor or 0.0 for row in rows),
        floor_text="the sum of the floors above",
        note="run once. torchreid has nothing that adapts without labels. The model comes from "
        "stages 1 and 2 (here with random weights: the time is the same), which need no target",
    )  # fmt: skip
    return [*rows, whole]


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    what = "a target, end to end"
    return context.on_each_device(SUBJECT, what, lambda device: _rows(context, device))
