"""Convolutions that apply the ReLU behind them in the same pass over memory, on the CPU.

oneDNN, which does torch's convolutions there, can clip its results before it stores them; a layer
of its own reads and writes all of them once more, which takes a fifth of MobileNet's time.

TensorFlow's SAME padding of a 3 x 3 convolution of stride 2 is one row and column at the bottom
right of an even image. Padded on all sides, a kernel with a row and a column of zeros before its
own gives the same sums and saves a padded copy of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6)


def can_activate(conv: nn.Module) -> bool:
    """Whether :class:`ActivatedConv` knows this kind, and torch has what it needs."""
    plain = (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )
    return (
        (plain or _is_same(conv))
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _is_same(conv: nn.Module) -> bool:
    geometry = ((3, 3), (2, 2), (1, 1))
    return (
        isinstance(conv, Conv2dSame) and (conv.kernel_size, conv.stride, conv.dilation) == geometry
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
        self._same = _is_same(conv)
        self._padding = (1, 1) if self._same else conv.padding
        shifted = F.pad(conv.weight.detach(), (1, 0, 1, 0)) if self._same else None
        self.register_buffer("_shifted", shifted, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the activated (B, C', H', W')."""
        conv = self.conv
        fits = x.device.type == "cpu" and x.dtype == conv.weight.dtype == torch.float32
        if self._same:
            fits = fits and x.shape[2] % 2 == 0 == x.shape[3] % 2
        weight = self._shifted if self._same else conv.weight
        if not fits or not x.numel() or torch.is_grad_enabled():
            return F.relu6(conv(x)) if self._six else F.relu(conv(x))
        clip, limits = ("hardtanh", [0.0, 6.0]) if self._six else ("relu", [])
        activated: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, conv.bias, list(self._padding), list(conv.stride),
            list(conv.dilation), conv.groups, clip, limits, "",
        )  # fmt: skip
        return activated
