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
    """Embeddings from trunk features in several views.

    The views' embeddings are averaged as they are; the mean is then scaled to length 1. That
    normalisation serves scoring alone: adaptation distorts the lengths (paper 5.1).

    Args:
        f_emb: the embedding head, in eval mode.
        features: (N, V, D) trunk features in V views.
        normalize: scale to length 1.
        batch_size: rows (image × view) at a time.

    Returns:
        (N, z_id_dim) float32.
    """
    views = features.shape[1]
    parts = [
        f_emb(some.flatten(0, 1)).float().view(len(some), views, -1).mean(1)
        for some in torch.split(features, max(1, batch_size // views))
    ]
    embeddings = torch.cat(parts)
    return F.normalize(embeddings, dim=1) if normalize else embeddings
