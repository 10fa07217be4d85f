"""Whether statistics by camera suit a network: a measure that needs no label.

Statistics of each camera usually make a Re-ID network better on new cameras, and make a network
worse that was never trained for Re-ID, whose own statistics lie far from those of person crops:
its batch norms then amplify what it has no use for. A crop and its mirror image show the same
person. Where the step drives the two apart, measured against the distance of any two crops, it is
undone.

Over seven pairs of a network and a target (docs/past_the_paper.md), the agreement of the two fell
by .01 to .05 where the step helped, and by .18 to .20 where it harmed.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from torch import nn

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_each_view
from embae_plugin.evaluation.label_free import MOST, flip_agreement, measure
from embae_plugin.models.embae import EmbAE

logger = logging.getLogger(__name__)

@dataclass(frozen=True)
class FlipAgreement:
    """How near a crop and its mirror image are, before and after the step."""

    before: float
    after: float

    def doubt(self, most_fall: float) -> str:
        """Why the step is not to be kept, or an empty string.

        Args:
            most_fall: how far the agreement may fall.
        """
        if not self.before - self.after > most_fall:
            return ""
        return (
            f"a crop and its mirror image, which show one person, agree less by them than without "
            f"({self.after:.2f} after {self.before:.2f}; 1 is equal, 0 as far as any two crops), "
            "as in networks that were not trained for Re-ID"
        )


def agreement(model: EmbAE, store: FeatureStore, target: ImageRecords) -> float:
    """The flip agreement of what the network compares, over at most :data:`MOST` crops."""
    features = store.features(model, target, "target")
    step = max(1, -(-len(target) // MOST))
    rows = torch.arange(0, len(target), step)
    records = target.rows(rows.numpy())
    output, model.output = model.output, model.learned_output
    try:
        views = embed_each_view(model, features[rows.to(features.device)], records)
    finally:
        model.output = output
    name = flip_agreement.__name__
    return measure(views, torch.from_numpy(records.camids), (name,))[name]


class Undo:
    """The parts of a model that statistics by camera change, as they were.

    Args:
        model: before the step.
    """

    def __init__(self, model: EmbAE) -> None:
        self.parts: dict[str, nn.Module] = {
            name: copy.deepcopy(getattr(model, name)) for name in ("trunk", "f_emb")
        }

    def apply(self, model: EmbAE) -> None:
        """Puts them back; the model knows no cameras then."""
        for name, part in self.parts.items():
            setattr(model, name, part)
        model.forget_cameras()
