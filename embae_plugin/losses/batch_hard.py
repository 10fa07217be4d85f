"""Batch-hard triplet loss (Hermans, Beyer and Leibe, 2017; paper, section 3.1).

Distances, mining and the loss are separate functions of fixed-shape tensors. Anchors without a
triplet are weighted by zero rather than indexed away, so nothing waits for the device, and a
training step that holds this loss can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def pairwise_distances(x: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (not squared) between all rows of x (B, D), (B, B).

    Computed from differences, not from the Gram matrix, whose cancellation makes small distances
    between long vectors worthless; in float32 at least, also under autocast. Equal rows have
    distance 0 and gradient 0.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def batch_hard_mine(
    dist: torch.Tensor, pids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The hardest positive and negative of each anchor, from distances (B, B) and pids (B,).

    Returns:
        ``d_pos`` (B,), the largest distance to another image of the same identity; ``d_neg``
        (B,), the smallest to another identity; ``valid`` (B,) bool, whether the anchor has both.
        Where it has not, both distances are 0.
    """
    if len(pids) == 0:
        empty = dist.sum(dim=1)
        return empty, empty, torch.zeros_like(empty, dtype=torch.bool)
    same = pids[:, None] == pids[None, :]
    other_image = same ^ torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    valid = other_image.any(dim=1) & ~same.all(dim=1)
    d_pos = dist.masked_fill(~other_image, -torch.inf).amax(dim=1)
    d_neg = dist.masked_fill(same, torch.inf).amin(dim=1)
    return d_pos.masked_fill(~valid, 0), d_neg.masked_fill(~valid, 0), valid


class BatchHardTripletLoss(nn.Module):
    """Mean over anchors of how much farther the hardest positive is than the hardest negative.

    Args:
        margin: "soft" for softplus(d_pos - d_neg), the paper's choice; a number m >= 0 for the
            hinge max(0, m + d_pos - d_neg).

    Raises:
        ValueError: for any other margin.
    """

    def __init__(self, margin: float | str = "soft") -> None:
        super().__init__()
        is_number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
        if margin != "soft" and not (is_number and 0 <= float(margin) < float("inf")):
            raise ValueError(f"margin must be 'soft' or a number >= 0, got {margin!r}")
        self.margin: float | None = None if margin == "soft" else float(margin)

    def extra_repr(self) -> str:
        """The margin, by which a resumed run is compared."""
        return f"margin={'soft' if self.margin is None else self.margin}"

    def forward(self, features: torch.Tensor, pids: torch.Tensor) -> torch.Tensor:
        """The loss of a batch (B, D) of embeddings with integer pids (B,): float32 or wider.

        Anchors that lack another image of their identity, or any image of another one, are left
        out of the mean. A batch without a single triplet has loss 0 and gradient 0.

        Raises:
            ValueError: the shapes do not fit together.
        """
        if features.ndim != 2 or pids.shape != features.shape[:1]:
            raise ValueError("features must be (B, D) and pids (B,), got "
                             f"{tuple(features.shape)} and {tuple(pids.shape)}")
        d_pos, d_neg, valid = batch_hard_mine(pairwise_distances(features), pids)
        gap, weight = d_pos - d_neg, valid.to(d_pos.dtype)
        # Not log1p(exp(gap)), which is inf from gap = 89 on in float32.
        penalty = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
        return (penalty * weight).sum() / weight.sum().clamp(min=1)
