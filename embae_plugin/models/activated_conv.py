"""Convolutions that apply the ReLU behind them in the same pass over memory, on the CPU.

oneDNN, which does torch's convolutions there, can clip its results before it stores them; a layer
of its own reads and writes all of them once more, which takes a fifth of MobileNet's time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6)


def can_activate(conv: nn.Module) -> bool:
    """Whether ``conv`` is a plain convolution and this torch has the fused operation."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


class ActivatedConv(nn.Module):
    """A convolution and the activation behind it: the same values, bit for bit.

    Only float32 on a CPU without gradients is done in one pass; all else is done one after the
    other.

    Args:
        conv: one that :func:`can_activate`.
        activation: of :data:`ACTIVATIONS`.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self._six = isinstance(activation, nn.ReLU6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the activated (B, C', H', W')."""
        conv = self.conv
        fits = x.device.type == "cpu" and x.dtype == conv.weight.dtype == torch.float32
        if not fits or not x.numel() or torch.is_grad_enabled():
            return F.relu6(conv(x)) if self._six else F.relu(conv(x))
        clip, limits = ("hardtanh", [0.0, 6.0]) if self._six else ("relu", [])
        activated: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, list(conv.padding), list(conv.stride),
            list(conv.dilation), conv.groups, clip, limits, "",
        )  # fmt: skip
        return activated
