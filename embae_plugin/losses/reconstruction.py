"""The autoencoder's loss: how far the decoded trunk feature is from the true one."""

from __future__ import annotations

import torch
from torch import nn


class ReconstructionLoss(nn.Module):
    """Mean squared error between a trunk feature and its reconstruction (paper, section 3.2).

    The mean is over features as well as samples, so that the value does not depend on the trunk's
    width. Half-precision inputs are compared in float32.
    """

    def forward(self, reconstruction: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """Mean over a batch of what the decoder and the trunk gave, (B, D) each; 0 for none.

        Raises:
            ValueError: the shapes differ or are not two-dimensional.
        """
        if reconstruction.shape != feature.shape or feature.ndim != 2:
            raise ValueError(
                "reconstruction and feature must both be (B, D), got "
                f"{tuple(reconstruction.shape)} and {tuple(feature.shape)}"
            )
        dtype = torch.promote_types(reconstruction.dtype, feature.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        error = (reconstruction.to(dtype) - feature.to(dtype)).square().mean(dim=1)
        return error.sum() / max(len(feature), 1)
