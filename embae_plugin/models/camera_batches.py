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
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embae_plugin.models.camera_norm import LEAST, ActivatedNorm, runs, statistics_of

_sizes: ContextVar[list[int] | None] = ContextVar("rows of each camera in the batch", default=None)


@contextmanager
def batch_of_cameras(cameras: torch.Tensor) -> Iterator[list[int]]:
    """Names the cameras of a batch to split layers (:func:`split_norms`) while the block runs.

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


class SplitNorm(ActivatedNorm):
    """A batch norm layer's stand-in: its tensors, and the batch's moments of each camera apart.

    Raises:
        ValueError: a batch norm that has no running statistics, or no weight.
    """

    def __init__(self, source: _BatchNorm) -> None:
        mean, var = statistics_of(source)
        act = cast(nn.Module, getattr(source, "act", nn.Identity()))
        super().__init__(source.num_features, source.eps, act)
        self.weight, self.bias, self.momentum = source.weight, source.bias, source.momentum
        self.running_mean, self.running_var = mean, var
        self.num_batches_tracked = source.num_batches_tracked
        self.source = (source,)  # in a tuple it is no child
        self.train(source.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, D, …) to the same."""
        sizes = _sizes.get()
        if not self.training or sizes is None or len(sizes) < 2:
            return super().forward(input)
        momentum = 1 - (1 - (self.momentum or 0.1)) ** (1 / len(sizes))
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        parts = [F.batch_norm(part, *statistics, True, momentum, self.eps)
                 for part in torch.split(input, sizes)]
        return cast(torch.Tensor, self.act(torch.cat(parts)))


def split_norms(module: nn.Module) -> None:
    """Replaces every batch norm of ``module``, in place, by one of the same tensors and names."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SplitNorm):
            module.set_submodule(name, SplitNorm(layer))


def join_norms(module: nn.Module) -> None:
    """Puts the batch norms back that :func:`split_norms` has replaced; in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, SplitNorm):
            module.set_submodule(name, layer.source[0].train(layer.training))
