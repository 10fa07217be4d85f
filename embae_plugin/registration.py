"""What this package adds to torchreid, and under which names."""

from __future__ import annotations

from embae_plugin import losses, models
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data import samplers
from embae_plugin.data.datasets import synthetic, ward
from embae_plugin.methods import registry

MODELS = {
    "embae_mobilenetv1": models.embae_mobilenetv1,
    "embae_mobilenetv2_x1_0": models.embae_mobilenetv2_x1_0,
    "embae_osnet_x1_0": models.embae_osnet_x1_0,
    "embae_resnet50": models.embae_resnet50,
}
DATASETS = {
    "synthetic_source_a": synthetic.SyntheticSourceA,
    "synthetic_source_b": synthetic.SyntheticSourceB,
    "synthetic_target": synthetic.SyntheticTarget,
    "ward": ward.WARD,
}
SAMPLERS = (samplers.RandomDatasetIdentitySampler, samplers.CameraBalancedSampler)
LOSSES = (losses.BatchHardTripletLoss, losses.ReconstructionLoss)


def register() -> None:
    """Enter everything in torchreid's tables; calling it again changes nothing.

    Raises:
        ValueError: torchreid already has something else under one of the names.
    """
    for kind, table in (("model", MODELS), ("dataset", DATASETS)):
        for name, new in table.items():
            bridge.register(kind, name, new)
    for kind, classes in (("sampler", SAMPLERS), ("loss", LOSSES), ("engine", registry.engines())):
        for one in classes:
            bridge.register(kind, one.__name__, one)
