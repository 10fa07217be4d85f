"""Networks: trunks, heads and the EmbAE model."""

from __future__ import annotations

from embae_plugin.models.embae import EmbAE
from embae_plugin.models.factories import (
    embae_mobilenetv1,
    embae_mobilenetv2_x1_0,
    embae_osnet_x1_0,
    embae_resnet50,
)
from embae_plugin.models.trunks import Trunk, build_trunk

__all__ = ["EmbAE", "Trunk", "build_trunk", "embae_mobilenetv1", "embae_mobilenetv2_x1_0",
           "embae_osnet_x1_0", "embae_resnet50"]
