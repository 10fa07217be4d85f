"""Stopping without labels: the epoch whose embeddings score highest by a measure is kept."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_each_view
from embae_plugin.evaluation.label_free import LAST, MEASURES, MOST, measure
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.schedule import seeded

logger = logging.getLogger(__name__)


class Watch:
    """Measures a model on unlabelled crops and keeps the parts that learn, of the best epoch.

    Args:
        phase: that learns them, on the crops' cached features.
        features: (N, V, D) of all crops; :data:`MOST` at most are looked at.
        records: the N crops.
        rule: of :data:`label_free.RULES`.
        seed: of the draw of crops, the same in every epoch.
    """

    def __init__(
        self,
        phase: ReconstructionPhase,
        features: torch.Tensor,
        records: ImageRecords,
        rule: str,
        seed: int,
    ) -> None:
        self.phase, self.rule = phase, rule
        self.features, self.records = features, records
        order = torch.randperm(len(features), generator=seeded(seed, "watch"))
        self.drawn = order[:MOST].sort().values
        self.epoch, self.value = 0, -math.inf
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    @torch.inference_mode()
    def _measured(self, model: EmbAE, every: bool) -> dict[str, float]:
        model.eval()
        features = self.features[self.drawn.to(self.features.device)]
        records = self.records.rows(self.drawn.numpy())
        views = embed_each_view(model, features, records)
        names = tuple(MEASURES) if every else (self.rule,)
        return measure(views, torch.from_numpy(records.camids), names)

    def after_epoch(self, epoch: int, every: bool) -> dict[str, float]:
        """Measures; after the last epoch, puts the best one's weights back.

        Args:
            epoch: that has ended, from 1.
            every: all measures, for a comparison; else what the rule needs.

        Returns:
            what was measured, and after the last epoch ``kept_epoch``.
        """
        if self.rule == LAST and not every:
            return {}
        model, found = self.phase.model, self._measured(self.phase.model, every)
        shown = {name: value for name, value in found.items() if math.isfinite(value)}
        if self.rule == LAST:
            return shown
        if found[self.rule] > self.value:  # never, where it is NaN
            self.epoch, self.value = epoch, found[self.rule]
            self.weights = {
                name: {key: v.clone() for key, v in getattr(model, name).state_dict().items()}
                for name in self.phase.learn
            }
        if epoch < self.phase.epochs:
            return shown
        if not self.weights:
            logger.warning("%s cannot be measured on these crops (one camera, or no mirrored "
                           "views): the last epoch is kept", self.rule)
            return {**shown, "kept_epoch": float(epoch)}
        for name, weights in self.weights.items():
            getattr(model, name).load_state_dict(weights)
        logger.info("epoch %d of %d is kept: %s was highest there (%.4g)", self.epoch, epoch,
                    self.rule.replace("_", " "), self.value)
        return {**shown, "kept_epoch": float(self.epoch)}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far."""
        return {"epoch": self.epoch, "value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.epoch, self.value, self.weights = state["epoch"], state["value"], state["weights"]
