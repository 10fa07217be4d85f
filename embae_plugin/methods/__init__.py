"""The engines: the three stages, and the methods they are compared with."""

from embae_plugin.methods.adversarial import ImageAdversarialEngine
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.methods.pul import ImagePULEngine
from embae_plugin.methods.softmax import ImageIdentificationEngine
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine

__all__ = [
    "VARIANTS",
    "ImageAdversarialEngine",
    "ImageAutoencoderEngine",
    "ImageEmbeddingEngine",
    "ImageIdentificationEngine",
    "ImagePULEngine",
    "ImageTransferEngine",
]
