"""The whole way of a target: files, features, adaptation by ``cam``, scores. Timed part by part."""

from __future__ import annotations

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.floors import (
    adam_traffic,
    forward_operations,
    reconstruction_operations,
)
from embae_plugin.lab.benchmark.measure import Measured, Row, seconds
from embae_plugin.lab.benchmark.ranking_speed import FLOOR_TEXT, product_floor
from embae_plugin.lab.benchmark.stock_training_speed import NORM, build_model, read_data
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.settings.config import get_default_config
from embae_plugin.training.scoring import score_model

SUBJECT = "adaptation"


class _Target:
    """A target's crops and a model to adapt, with the steps as ``embae train`` does them."""

    def __init__(self, context: Context, device: str) -> None:
        sizes = context.sizes
        self.context, self.device = context, device
        self.node = get_default_config().embae.transfer
        self.data = read_data(context.crops(*sizes.target))
        self.model = build_model(sizes).to(device)
        self.store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
        splits = (self.data.target_train, self.data.query, self.data.gallery)
        self.splits = [split for split in splits if split is not None]
        self.images = sum(sizes.target)

    def decode(self) -> None:
        """JPEG files into image banks."""
        for split in self.splits:
            self.store.images(split, "target")

    def extract(self) -> None:
        """Image banks into feature banks."""
        for split in self.splits:
            self.store.features(self.model, split, "target")

    def adapt(self) -> None:
        """Stage 3."""
        node = self.node
        engine = ImageTransferEngine(
            self.data, self.model, "cam", nuisance_epoch=node.nuisance_epoch, lr=node.lr,
            nuisance_lr=node.nuisance_lr, final_lr=node.final_lr, batch_size=node.batch_size,
            use_gpu=self.device == "cuda", store=self.store,
        )  # fmt: skip
        folder = self.context.folder / f"adaptation-{self.device}"
        engine.run(save_dir=folder, max_epoch=node.max_epoch)

    def score(self) -> None:
        """Embeddings of query and gallery, and both protocols' scores."""
        query, gallery = self.splits[-2:]
        score_model(self.model, self.store, query, gallery)

    def extract_floor(self) -> float:
        """Seconds for the trunk's operations on two views of every image."""
        sizes = self.context.sizes
        forward = forward_operations(self.model, sizes.height, sizes.width)
        return self.context.rates_of(self.device).operations(2 * self.images * forward)

    def adapt_floor(self) -> float:
        """Seconds for the operations and Adam's traffic of both phases of ``cam``."""
        rates, node, images = self.context.rates_of(self.device), self.node, len(self.splits[0])
        total = 0.0
        for epochs, learn in (
            (node.nuisance_epoch, ("f_nui",)),
            (node.max_epoch, VARIANTS["cam"].learn),
        ):
            steps = epochs * max(1, images // node.batch_size)
            operations = reconstruction_operations(self.model, learn)
            total += rates.operations(steps * node.batch_size * operations)
            total += rates.traffic(steps * adam_traffic(self.model, learn))
        return total


def _rows(context: Context, device: str) -> list[Row]:
    target, sizes = _Target(context, device), context.sizes
    images, queries, gallery = sizes.target
    size = (
        f"{images:,} images to adapt to, {queries:,} queries and {gallery:,} gallery images, "
        f"{sizes.trunk} at {sizes.height} × {sizes.width}"
    )

    def row(what: str, taken: float, floor: float, text: str, note: str = "") -> Row:
        mine = Measured((taken,), "s")
        return Row(SUBJECT, what, device, None, mine, floor or None, text, note, size)

    epochs = f"{target.node.nuisance_epoch} + {target.node.max_epoch} epochs"
    decoded, extracted, adapted, scored = (
        seconds(part, device)
        for part in (target.decode, target.extract, target.adapt, target.score)
    )
    rows = [
        row("JPEG files decoded and resized", decoded, 0.0, ""),
        row("trunk features, two views", extracted, target.extract_floor(),
            "the trunk's operations"),
        row(f"stage 3 cam, {epochs}", adapted, target.adapt_floor(),
            "operations of the heads, Adam's traffic"),
        row("scores, both protocols", scored, product_floor(context, device, queries, gallery),
            FLOOR_TEXT),
    ]  # fmt: skip
    whole = row(
        "all of it", decoded + extracted + adapted + scored, sum(r.floor or 0.0 for r in rows),
        "the sum of the floors above", "run once. torchreid has nothing that adapts without "
        "labels. The model comes from stages 1 and 2, which need no target (here it has random "
        "weights: the time is the same)",
    )  # fmt: skip
    return [*rows, whole]


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    return context.on_each_device(SUBJECT, "all of it", lambda device: _rows(context, device))
