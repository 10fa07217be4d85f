"""Adaptation by statistics alone: batch norm re-estimated for each of the target's cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embae_plugin.data.records import ImageRecords
from embae_plugin.methods.camera_statistics import camera_count, estimate
from embae_plugin.models.camera_norm import knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import OneStep, Phase
from embae_plugin.training.stage_engine import StageEngine


class ImageNormEngine(StageEngine):
    """Gives a model each target camera's own batch norm statistics; no weight changes.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model.
        parts: ``trunk``, or ``heads``: f_emb alone, which takes moments on cached features.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ValueError: no target images, or other parts.
    """

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        parts: str = "trunk",
        *,
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        super().__init__(datamanager, model, use_gpu, seed, store)
        if self.data.target_train is None or not len(self.data.target_train):
            raise ValueError("there are no target images: name a target that is not a source")
        self.parts, self.stage = parts, f"norm-{parts}"

    def learns_from(self) -> ImageRecords | None:
        """See :meth:`StageEngine.learns_from`."""
        return self.data.target_train

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        records = self.data.target_train
        images = 0 if records is None else len(records)
        return {**super().identity(), "target": self.data.target, "images": images}

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One step."""
        return [StatisticsPhase(self, self.parts)]


class StatisticsPhase(OneStep):
    """One step: statistics by camera, of the weights of the moment.

    Args:
        engine: whose model and target are used.
        parts: what to give statistics; "" estimates those the trunk has again, if it has any.
    """

    def __init__(self, engine: StageEngine, parts: str = "") -> None:
        self.engine, self.parts = engine, parts
        target, model = engine.data.target_train, engine.model
        if parts and target is not None and not model.camera_parts:
            camera_count(target.camids)
            model.learn_cameras(parts, target.camera_table())

    def work(self) -> None:
        """Estimates."""
        engine, target = self.engine, self.engine.data.target_train
        parts = self.parts or ("trunk" if knows_cameras(engine.model.trunk) else "")
        if parts and target is not None:
            estimate(engine.model, target, engine.store, parts, engine.seed)
