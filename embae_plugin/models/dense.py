"""The dense parts of EmbAE: one head (f_emb or an f_nui) and the decoder (paper 3.2, 4.2)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.camera_norm import CameraNorm

ORDERS = ("relu_bn", "bn_relu")

MOMENTUM, EPS = 0.1, 1e-5  # those of nn.BatchNorm1d

Forward = TypeVar("Forward", bound=Callable[..., torch.Tensor])


def in_weight_precision(forward: Forward) -> Forward:
    """A forward that runs in the precision of its module's weights, under autocast too.

    The dense parts are small, and the distances and errors computed from them need the digits.
    """

    @functools.wraps(forward)
    def full(self: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        bias = self.fc1.bias if hasattr(self, "fc1") else self.fc1_bias
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, x.to(bias.dtype), *rest)

    return cast(Forward, full)


def checked_order(order: str) -> str:
    """``order``, if it is one of :data:`ORDERS`; ValueError otherwise."""
    if order not in ORDERS:
        raise ValueError(f"order of a head must be one of {', '.join(ORDERS)}, not {order!r}")
    return order


@torch.no_grad()
def redraw(
    weight: torch.Tensor, bias: torch.Tensor, in_dim: int, generator: torch.Generator | None
) -> None:
    """nn.Linear's own law: uniform in ±1/√in_dim, drawn on the generator's device."""
    for tensor in (weight, bias):
        device = tensor.device if generator is None else generator.device
        draw = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        tensor.copy_(draw.uniform_(-(in_dim**-0.5), in_dim**-0.5, generator=generator))


def new_linear(in_dim: int, out_dim: int, generator: torch.Generator | None) -> nn.Linear:
    """nn.Linear with its weights drawn from ``generator``."""
    linear = nn.Linear(in_dim, out_dim, device="meta").to_empty(device="cpu")
    redraw(linear.weight, linear.bias, in_dim, generator)
    return linear


class DenseHead(nn.Module):
    """Linear, ReLU, batch norm, linear: f_emb, or one f_nui.

    A training batch of a single row, which has no variance, is normalised by the running
    statistics and leaves them as they are.

    Args:
        in_dim: width of a trunk feature h.
        hidden_dim: units of the hidden layer.
        out_dim: width of the latent.
        order: ``relu_bn`` is the order of paper 4.2; ``bn_relu`` has the batch norm first.
        generator: of the initial weights; None for torch's global one.

    Raises:
        ValueError: an unknown order.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, order: str = "relu_bn",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.order = checked_order(order)
        self.fc1 = new_linear(in_dim, hidden_dim, generator)
        self.bn: nn.BatchNorm1d | CameraNorm = nn.BatchNorm1d(hidden_dim)
        self.fc2 = new_linear(hidden_dim, out_dim, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights, by the laws of nn.Linear and nn.BatchNorm1d."""
        for linear in (self.fc1, self.fc2):
            redraw(linear.weight, linear.bias, linear.in_features, generator)
        cast(nn.BatchNorm1d, self.bn).reset_parameters()

    def hidden(self, h: torch.Tensor) -> torch.Tensor:
        """(B, in_dim) to what batch norm normalises, (B, hidden_dim)."""
        hidden = self.fc1(h)
        return F.relu(hidden) if self.order == "relu_bn" else hidden

    @in_weight_precision
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(B, in_dim) to (B, out_dim)."""
        hidden, bn = self.hidden(h), self.bn
        if isinstance(bn, CameraNorm) or (self.training and len(hidden) >= 2):
            hidden = bn(hidden)
        else:
            hidden = F.batch_norm(hidden, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        hidden = F.relu(hidden) if self.order == "bn_relu" else hidden
        return cast(torch.Tensor, self.fc2(hidden))


class OwnHead(nn.Module):
    """The embedding layer that a network comes with, behind its pooled features: its f_emb.

    Args:
        fc: torchreid's: linear, batch norm, ReLU, once or several times; None for a network whose
            pooled features are its embedding.
    """

    def __init__(self, fc: nn.Sequential | None) -> None:
        super().__init__()
        self.fc = fc

    @property
    def out_dim(self) -> int:
        """Width of the embedding; 0 for that of what comes in."""
        widths = [layer.out_features for layer in self.fc or () if isinstance(layer, nn.Linear)]
        return widths[-1] if widths else 0

    def hidden(self, h: torch.Tensor) -> torch.Tensor:
        """(B, in_dim) to what the first batch norm normalises."""
        return h if self.fc is None else cast(torch.Tensor, self.fc[0](h))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(B, in_dim) to (B, out_dim), in the precision of the weights."""
        if self.fc is None:
            return h
        with torch.autocast(h.device.type, enabled=False):
            return cast(torch.Tensor, self.fc(h.to(next(self.fc.parameters()).dtype)))


class Decoder(nn.Module):
    """f_dec: linear, ReLU, linear, from both latents to the trunk feature. No batch norm.

    Args:
        latent_dim: width of [z_id, z_nui].
        hidden_dim: units of the hidden layer.
        out_dim: width of the trunk feature.
        generator: of the initial weights; None for torch's global one.
    """

    def __init__(
        self, latent_dim: int, hidden_dim: int, out_dim: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = new_linear(latent_dim, hidden_dim, generator)
        self.fc2 = new_linear(hidden_dim, out_dim, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights, by the law of nn.Linear."""
        for linear in (self.fc1, self.fc2):
            redraw(linear.weight, linear.bias, linear.in_features, generator)

    @in_weight_precision
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_dim) to (B, out_dim)."""
        return cast(torch.Tensor, self.fc2(F.relu(self.fc1(latents))))
