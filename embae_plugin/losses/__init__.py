"""Loss functions."""

from __future__ import annotations

from embae_plugin.losses.batch_hard import BatchHardTripletLoss, batch_hard_mine, pairwise_distances
from embae_plugin.losses.bottleneck import Bottleneck
from embae_plugin.losses.reconstruction import ReconstructionLoss

__all__ = ["BatchHardTripletLoss", "Bottleneck", "ReconstructionLoss", "batch_hard_mine",
           "pairwise_distances"]
