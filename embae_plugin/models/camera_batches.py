"""Training batches normalised camera by camera, in a network that stays as it is.

What a network learns on several cameras at once holds on to what tells them apart; with each
camera's rows normalised by their own moments it cannot (Zhuang et al., ECCV 2020). The layers'
names, weights and statistics are those of the network's own, so that a checkpoint written
meanwhile is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embae_plugin.models.camera_norm import LEAST, runs, statistics_of

_sizes: ContextVar[list[int] | None] = ContextVar("rows of each camera in the batch", default=None)


@contextmanager
def batch_of_cameras(cameras: torch.Tensor) -> Iterator[list[int]]:
    """Names the cameras of a batch to layers after :func:`split_norms` while the block runs.

    Cameras of fewer than four rows have no moments to be normalised by; together with the rows
    before them they do.

    Args:
        cameras: (B,) numbers in which equal ones lie together.

    Yields:
        how many rows are normalised together, in their order.

    Raises:
        ValueError: equal ones do not lie together.
    """
    sizes: list[int] = []
    for count in runs(cameras)[1]:
        if sizes and min(count, sizes[-1]) < LEAST:
            sizes[-1] += count
        else:
            sizes.append(count)
    token = _sizes.set(sizes)
    try:
        yield sizes
    finally:
        _sizes.reset(token)


def split_norms(module: nn.Module) -> None:
    """Has every batch norm of ``module`` normalise each camera's rows by their own moments.

    Running statistics move as far as one batch moves them. Undone by :func:`join_norms`.

    Raises:
        ValueError: a batch norm that has no running statistics, or no weight.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            statistics_of(layer)
            vars(layer)["forward"] = MethodType(_by_camera, layer)


def join_norms(module: nn.Module) -> None:
    """Undoes :func:`split_norms`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            vars(layer).pop("forward", None)


def _by_camera(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """What a batch norm, perhaps timm's with an activation, makes of (B, D, …)."""
    sizes = _sizes.get()
    if not layer.training or sizes is None or len(sizes) < 2:
        return type(layer).forward(layer, x)
    momentum = 1 - (1 - (layer.momentum or 0.1)) ** (1 / len(sizes))
    own = layer.running_mean, layer.running_var, layer.weight, layer.bias
    parts = [F.batch_norm(part, *own, True, momentum, layer.eps) for part in torch.split(x, sizes)]
    act = cast(nn.Module, getattr(layer, "act", nn.Identity()))
    return cast(torch.Tensor, act(torch.cat(parts)))
