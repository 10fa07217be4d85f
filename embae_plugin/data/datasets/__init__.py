"""Data sets that torchreid lacks: the built-in procedural cameras, and WARD."""

from __future__ import annotations

from embae_plugin.data.datasets.generation import generate
from embae_plugin.data.datasets.synthetic import (
    SyntheticSourceA,
    SyntheticSourceB,
    SyntheticTarget,
)
from embae_plugin.data.datasets.ward import WARD

__all__ = [
    "WARD",
    "SyntheticSourceA",
    "SyntheticSourceB",
    "SyntheticTarget",
    "generate",
]
