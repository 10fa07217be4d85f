"""Test-time augmentation: the mean of an image's embeddings over its views (paper 5.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


@torch.inference_mode()
def embed_views(
    f_emb: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    normalize: bool = True,
    batch_size: int = 8192,
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
    count, views, _ = features.shape
    step = max(1, batch_size // views)
    parts = [
        _mean_over_views(f_emb, features[start : start + step]) for start in range(0, count, step)
    ]
    embeddings = torch.cat(parts)
    return F.normalize(embeddings, dim=1) if normalize else embeddings


def _mean_over_views(
    f_emb: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    count, views, width = features.shape
    return f_emb(features.reshape(-1, width)).float().view(count, views, -1).mean(1)
