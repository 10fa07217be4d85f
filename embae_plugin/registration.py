"""What this package adds to torchreid, and under which names."""

from __future__ import annotations

import importlib
from typing import Any

from embae_plugin import torchreid_bridge as bridge


def _load(module, names):
    # TEMPORARY guard until all modules exist.
    try:
        m = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name and e.name.startswith("embae_plugin"):
            return {}
        raise
    return {n: getattr(m, n) for n in names if hasattr(m, n)}


def register() -> None:
    """Enter everything in torchreid's tables; calling it again changes nothing."""
    models = _load("embae_plugin.models", ["embae_mobilenetv1", "embae_mobilenetv2_x1_0", "embae_resnet50", "embae_osnet_x1_0"])
    for n, o in models.items():
        bridge.register_model(n, o)
    for n, o in _load("embae_plugin.data.samplers", ["RandomDatasetIdentitySampler", "CameraBalancedSampler"]).items():
        bridge.register_sampler(n, o)
    for n, o in _load("embae_plugin.losses", ["BatchHardTripletLoss", "ReconstructionLoss"]).items():
        bridge.register_loss(n, o)
    for n, o in _load("embae_plugin.engine", ["ImageEmbeddingEngine", "ImageAutoencoderEngine", "ImageTransferEngine", "ImagePULEngine", "ImageIdentificationEngine", "ImageAdversarialEngine"]).items():
        bridge.register_engine(n, o)
    names = {"SyntheticSourceA": "synthetic_source_a", "SyntheticSourceB": "synthetic_source_b", "SyntheticTarget": "synthetic_target", "WARD": "ward"}
    for n, o in _load("embae_plugin.data.datasets", list(names)).items():
        bridge.register_dataset(names[n], o)
