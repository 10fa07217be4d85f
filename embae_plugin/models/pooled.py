"""A trunk whose pooled feature is itself the embedding: what classification-based Re-ID compares.

The identification network of Zheng, Yang and Hauptmann (2016), less its classifier, which lives
with the engine that trains it. PUL's own baseline (the paper's tables 3 and 4) is one of these.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import Trunk, build_trunk


class PooledReID(nn.Module):
    """``trunk`` and nothing on top; ``f_emb`` is the identity, so that all models score alike.

    Args:
        trunk: maps (B, 3, H, W) to (B, trunk.feature_dim).
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk, self.f_emb = trunk, nn.Identity()

    @property
    def feature_dim(self) -> int:
        """Width of the embedding."""
        return self.trunk.feature_dim

    def forward(self, x: torch.Tensor, camids: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, H, W) normalised images, of whatever cameras, to (B, feature_dim)."""
        return cast(torch.Tensor, self.trunk(x))

    def embed_features(
        self, h: torch.Tensor, camids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Trunk features (B, feature_dim) are the embeddings."""
        return h

    def spec(self) -> dict[str, Any]:
        """What :meth:`from_spec` needs to build a model of the same shape."""
        return {"trunk": self.trunk.name}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> PooledReID:
        """A model of the shape that ``spec`` describes, its weights random. Nothing is fetched."""
        return cls(build_trunk(str(spec["trunk"]), generator=torch.Generator().manual_seed(0)))


ReIDModel = EmbAE | PooledReID


def model_from_spec(spec: dict[str, Any]) -> ReIDModel:
    """The model that a checkpoint's ``spec`` describes, its weights random.

    Raises:
        ValueError: missing or unknown entries, or impossible values.
    """
    if set(spec) == {"trunk"}:
        return PooledReID.from_spec(spec)
    return EmbAE.from_spec(spec)
