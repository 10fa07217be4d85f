"""The least work that a network can be done in: its multiplications and additions, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from embae_plugin.models.dense import DenseHead
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.heads import HeadBank


@torch.no_grad()
def forward_operations(model: nn.Module, height: int, width: int) -> float:
    """Operations of convolutions and linear layers for one image; everything else is free."""
    total = 0.0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2.0 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += 2.0 * output.numel() * module.in_features

    training = model.training
    model.eval()
    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        device = next(model.parameters()).device
        model(torch.zeros(1, 3, height, width, device=device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return total


def _head_operations(head: DenseHead | HeadBank) -> float:
    """Forward and backward of a learned head for one row, whose input needs no gradient."""
    if isinstance(head, DenseHead):
        first, second = head.fc1.weight, head.fc2.weight
        return 2.0 * (2 * first.numel() + 3 * second.numel())
    return 2.0 * (2 * head.fc1_weight[0].numel() + 3 * head.fc2_weight[0].numel())


def reconstruction_operations(model: EmbAE, learn: Sequence[str]) -> float:
    """Operations of one row in a step of stage 2 or 3.

    A learned layer costs a product forward, one for its weights' gradient and, unless its input is
    constant, one for its input's; a fixed one that gradients pass, two; what is fixed in front of
    the decoder is computed beforehand.
    """
    weights: int = sum(p.numel() for p in model.f_dec.parameters() if p.ndim == 2)
    total = 2.0 * weights * (3 if "f_dec" in learn else 2)
    for name in ("f_emb", "f_nui"):
        if name in learn:
            total += _head_operations(getattr(model, name))
    return total


def adam_traffic(model: nn.Module, learn: Sequence[str]) -> float:
    """Bytes that a step of Adam moves: weight, gradient and both moments in, all but one out."""
    parts = [cast(nn.Module, getattr(model, name)) for name in learn]
    learned = sum(p.numel() for part in parts for p in part.parameters())
    return 7.0 * 4.0 * learned
