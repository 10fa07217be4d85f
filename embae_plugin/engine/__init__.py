"""The engines of the three stages and what they run on."""

from embae_plugin.engine.autoencoder import ImageAutoencoderEngine
from embae_plugin.engine.embedding import ImageEmbeddingEngine
from embae_plugin.engine.transfer import VARIANTS, ImageTransferEngine

__all__ = ["VARIANTS", "ImageAutoencoderEngine", "ImageEmbeddingEngine", "ImageTransferEngine"]
