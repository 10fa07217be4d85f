"""What this package adds to torchreid, and under which names."""

from __future__ import annotations

from embae_plugin import losses, methods, models
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data import datasets, samplers

MODELS = {
    "embae_mobilenetv1": models.embae_mobilenetv1,
    "embae_mobilenetv2_x1_0": models.embae_mobilenetv2_x1_0,
    "embae_osnet_x1_0": models.embae_osnet_x1_0,
    "embae_resnet50": models.embae_resnet50,
}
DATASETS = {
    "synthetic_source_a": datasets.SyntheticSourceA,
    "synthetic_source_b": datasets.SyntheticSourceB,
    "synthetic_target": datasets.SyntheticTarget,
    "ward": datasets.WARD,
}
SAMPLERS = (samplers.RandomDatasetIdentitySampler, samplers.CameraBalancedSampler)
LOSSES = (losses.BatchHardTripletLoss, losses.ReconstructionLoss)
ENGINES = (
    methods.ImageEmbeddingEngine,
    methods.ImageAutoencoderEngine,
    methods.ImageTransferEngine,
    methods.ImageAdversarialEngine,
    methods.ImageIdentificationEngine,
    methods.ImagePULEngine,
)


def register() -> None:
    """Enter everything in torchreid's tables; calling it again changes nothing.

    Raises:
        ValueError: torchreid already has something else under one of the names.
    """
    for name, factory in MODELS.items():
        bridge.register("model", name, factory)
    for name, dataset in DATASETS.items():
        bridge.register("dataset", name, dataset)
    for sampler in SAMPLERS:
        bridge.register("sampler", sampler.__name__, sampler)
    for loss in LOSSES:
        bridge.register("loss", loss.__name__, loss)
    for engine_class in ENGINES:
        bridge.register("engine", engine_class.__name__, engine_class)
