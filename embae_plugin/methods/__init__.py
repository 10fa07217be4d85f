"""The methods: one file for each, registered where it is defined, in the order of results."""

# ruff: noqa: I001
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.methods.adversarial import ImageAdversarialEngine
from embae_plugin.methods.softmax import ImageIdentificationEngine
from embae_plugin.methods.pul import ImagePULEngine
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.methods.clusters import ImageClusterEngine
from embae_plugin.methods.distill import ImageDistillEngine
from embae_plugin.methods.supervised import ImageSupervisedEngine
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.methods import run_settings as run_settings

__all__ = [
    "VARIANTS",
    "ImageAdversarialEngine",
    "ImageAutoencoderEngine",
    "ImageClusterEngine",
    "ImageDistillEngine",
    "ImageEmbeddingEngine",
    "ImageIdentificationEngine",
    "ImageNormEngine",
    "ImagePULEngine",
    "ImageSupervisedEngine",
    "ImageTransferEngine",
    "Row",
    "register_method",
]
