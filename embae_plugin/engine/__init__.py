"""The engines: the three stages, and the methods they are compared with."""

from embae_plugin.engine.adversarial import ImageAdversarialEngine
from embae_plugin.engine.autoencoder import ImageAutoencoderEngine
from embae_plugin.engine.embedding import ImageEmbeddingEngine
from embae_plugin.engine.pul import ImagePULEngine
from embae_plugin.engine.softmax import ImageIdentificationEngine
from embae_plugin.engine.transfer import VARIANTS, ImageTransferEngine

__all__ = [
    "VARIANTS",
    "ImageAdversarialEngine",
    "ImageAutoencoderEngine",
    "ImageEmbeddingEngine",
    "ImageIdentificationEngine",
    "ImagePULEngine",
    "ImageTransferEngine",
]
