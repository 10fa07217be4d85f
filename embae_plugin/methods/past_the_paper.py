"""Rows that go past the paper, beside its own and from the same stage 1.

``norm``: batch norm statistics by camera (Zhuang et al., 2020). Rows that end with ``-h`` compare
trunk features h instead of z_id. ``norm+VARIANT``: EmbAE's stage 3 on features so normalised.
``clusters``: pseudo-labels (Dai et al., 2021). ``supervised`` is the same training with the
target's true labels, of the trunk or of f_emb alone: the bounds that the others are measured
against. Rows that end with ``-unnamed`` are of a model that knows cameras and is told none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.methods.clusters import ImageClusterEngine
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.config import zoo_kwargs

if TYPE_CHECKING:
    from embae_plugin.methods.pipeline import Run

_ROUNDS = ("rounds", "trunk_rounds")


def cluster_settings(node: Any) -> dict[str, Any]:
    """The arguments of :class:`ImageClusterEngine` in the node ``embae.clusters``."""
    return {key: value for key, value in node.items() if key not in _ROUNDS}


def renamed(engine: Callable[..., Any], stage: str) -> Callable[..., Any]:
    """Makes engines that keep their checkpoint under another name."""

    def make(*args: Any, **settings: Any) -> Any:
        made = engine(*args, **settings)
        made.stage = stage
        return made

    return make


def with_output(model: EmbAE, output: str) -> EmbAE:
    """A copy that returns ``z_id``, ``h`` or both (``joint``)."""
    changed = copy.deepcopy(model)
    changed.output = output
    return changed


class Beyond:
    """The models of these rows, each made at its first use and shared.

    Args:
        run: after its stage 1.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.clustered: dict[str, EmbAE] = {}  # by stage: a row may show another's model

    def norm(self, parts: str) -> EmbAE:
        """Statistics by camera in ``parts``."""
        return self.run.stage(ImageNormEngine, self.run.model, 1, parts=parts)

    @cached_property
    def normed(self) -> EmbAE:
        """Statistics by camera in the trunk."""
        return self.norm("trunk")

    def reconstruction(self, variant: str) -> EmbAE:
        """Stage 3 on the normalised trunk's features."""
        node = self.run.cfg.embae.transfer
        model = copy.deepcopy(self.run.autoencoder(VARIANTS[variant].encoders))
        model.trunk = copy.deepcopy(self.normed.trunk)
        model.camera_parts = self.normed.camera_parts
        model.camera_names = self.normed.camera_names
        engine = renamed(ImageTransferEngine, f"norm-transfer-{variant}")
        return self.run.stage(
            engine, model, node.max_epoch, variant=variant, nuisance_epoch=node.nuisance_epoch,
            lr=node.lr, nuisance_lr=node.nuisance_lr, final_lr=node.final_lr,
            batch_size=node.batch_size, stop=node.stop, bottleneck=self.run.bottleneck,
        )  # fmt: skip

    def clusters(self, model: EmbAE, learn: str, stage: str, **more: Any) -> EmbAE:
        """Pseudo-labels from a model's embeddings."""
        node = self.run.cfg.embae.clusters
        rounds = node.rounds if learn == "heads" else node.trunk_rounds
        if stage not in self.clustered:
            self.clustered[stage] = self.run.stage(
                renamed(ImageClusterEngine, stage), model, rounds, learn=learn,
                **cluster_settings(node), precision=self.run.cfg.embae.embedding.precision, **more,
            )  # fmt: skip
        return self.clustered[stage]

    def supervised(self, learn: str, stage: str) -> EmbAE:
        """The training of ``clusters-trunk`` or ``-heads`` with true identities for clusters."""
        cfg, name = self.run.cfg, self.run.data.target
        options = {"root": cfg.data.root, "split_id": cfg.data.split_id, **zoo_kwargs(cfg)}
        items = bridge.dataset_split(name, mode="train", **options)
        target = self.run.data.target_train
        if target is None or [item[0] for item in items] != list(target.paths):
            raise ValueError(f"the identities of {name} cannot be had for the row supervised")
        pids = np.array([item[1] for item in items], dtype=np.int64)
        start = self.normed if learn == "trunk" else with_output(self.normed, "joint")
        return self.clusters(start, learn, stage, identities=pids)


def _on_normed(variant: str) -> Callable[[Beyond], EmbAE]:
    return lambda b: b.reconstruction(variant)


MODELS: dict[str, Callable[[Beyond], EmbAE]] = {
    "baseline-h": lambda b: with_output(b.run.model, "h"),
    "norm-heads": lambda b: b.norm("heads"),
    "norm": lambda b: b.normed,
    "norm-h": lambda b: with_output(b.normed, "h"),
    "norm-unnamed": lambda b: b.normed.of_camera(-1),
    **{f"norm+{variant}": _on_normed(variant) for variant in ("all", "fix", "new", "cam")},
    "clusters-baseline": lambda b: b.clusters(b.run.model, "heads", "clusters-baseline"),
    "clusters-heads": lambda b: b.clusters(
        with_output(b.normed, "joint"), "heads", "clusters-heads"),
    "clusters-cam": lambda b: b.clusters(
        with_output(b.reconstruction("cam"), "joint"), "heads", "clusters-cam"),
    "clusters-trunk": lambda b: b.clusters(b.normed, "trunk", "clusters-trunk"),
    "clusters-trunk-unnamed": lambda b: b.clusters(
        b.normed, "trunk", "clusters-trunk").of_camera(-1),
    "supervised-heads": lambda b: b.supervised("heads", "supervised-heads"),
    "supervised": lambda b: b.supervised("trunk", "supervised"),
}  # fmt: skip

STAGE_OF_ROW = {
    name: {"norm": "norm-trunk"}.get(name, name.replace("norm+", "norm-transfer-"))
    for name in MODELS
    if not name.endswith(("-h", "-unnamed"))
}
# Rows that show a model that has a row in another way.
STAGE_OF_VIEW = {"baseline-h": "embedding", "norm-h": "norm-trunk", "norm-unnamed": "norm-trunk",
                 "clusters-trunk-unnamed": "clusters-trunk"}  # fmt: skip


def in_the_way_of(row: str, model: EmbAE) -> EmbAE:
    """A model as a row of :data:`STAGE_OF_VIEW` shows it."""
    return with_output(model, "h") if row.endswith("-h") else model.of_camera(-1)


def model_of(run: Run, name: str) -> EmbAE:
    """The model of one of :data:`MODELS` in a run."""
    shared = cast(Beyond, run.shared.setdefault("beyond", Beyond(run)))
    return MODELS[name](shared)
