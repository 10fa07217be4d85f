"""Test-time augmentation: the mean of an image's embeddings over its views (paper 5.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


@torch.inference_mode()
def embed_views(
    f_emb: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor,
    normalize: bool = True, batch_size: int = 8192,
) -> torch.Tensor:
    """Embeddings (N, d) float32 from trunk features (N, V, D) in V views.

    ``f_emb``, in eval mode, embeds about ``batch_size`` rows (image × view) at a time. The views'
    embeddings are averaged as they are; ``normalize`` then scales the mean to length 1. That
    serves scoring alone: adaptation distorts the lengths (paper 5.1).
    """
    views = features.shape[1]
    embeddings = torch.cat([
        f_emb(some.flatten(0, 1)).float().view(len(some), views, -1).mean(1)
        for some in torch.split(features, max(1, batch_size // views))
    ])
    return F.normalize(embeddings, dim=1) if normalize else embeddings
