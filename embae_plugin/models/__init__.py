"""Networks: trunks, heads and the EmbAE model."""

from __future__ import annotations

from embae_plugin.models.dense import Decoder, DenseHead
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.factories import (
    TRUNK_OF_MODEL,
    embae_mobilenetv1,
    embae_mobilenetv2_x1_0,
    embae_osnet_x1_0,
    embae_resnet50,
)
from embae_plugin.models.heads import HeadBank
from embae_plugin.models.inference import freeze, trunk_fingerprint
from embae_plugin.models.trunks import Trunk, build_trunk

__all__ = [
    "TRUNK_OF_MODEL",
    "Decoder",
    "DenseHead",
    "EmbAE",
    "HeadBank",
    "Trunk",
    "build_trunk",
    "embae_mobilenetv1",
    "embae_mobilenetv2_x1_0",
    "embae_osnet_x1_0",
    "embae_resnet50",
    "freeze",
    "trunk_fingerprint",
]
