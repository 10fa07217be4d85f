"""Training batches normalised camera by camera, in a network that stays as it is.

What a network learns on several cameras at once holds on to what tells them apart; with each
camera's rows normalised by their own moments it cannot (Zhuang et al., ECCV 2020). The layers'
names, weights and statistics are those of the network's own, so that a checkpoint written
meanwhile is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embae_plugin.models.camera_norm import LEAST, ActivatedNorm, statistics_of


class BatchCameras:
    """How the rows of the running batch lie: so many of one camera, then of the next."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @contextmanager
    def sorted_by(self, cameras: torch.Tensor) -> Iterator[None]:
        """Names the cameras of a batch to the layers while the block runs.

        Cameras of fewer than four rows have no moments to be normalised by; together with the
        rows before them they do.

        Args:
            cameras: (B,) numbers in which equal ones lie together.

        Raises:
            ValueError: they do not.
        """
        found, counts = torch.unique_consecutive(cameras, return_counts=True)
        if len(found.unique()) < len(found):
            raise ValueError(f"a batch must be sorted by camera; this one has {found[:8].tolist()}")
        self.sizes = _joined(counts.tolist())
        try:
            yield
        finally:
            self.sizes = []


def _joined(counts: list[int]) -> list[int]:
    sizes: list[int] = []
    for count in counts:
        if sizes and (count < LEAST or sizes[-1] < LEAST):
            sizes[-1] += count
        else:
            sizes.append(count)
    return sizes


class SplitNorm(ActivatedNorm):
    """A batch norm layer's stand-in: its tensors, and the batch's moments of each camera apart.

    Args:
        source: whose weights, statistics and activation are used, and changed.
        batch: names the cameras of the rows; shared by the layers of a network.

    Raises:
        ValueError: a batch norm that has no running statistics, or no weight.
    """

    def __init__(self, source: _BatchNorm, batch: BatchCameras) -> None:
        mean, var = statistics_of(source)
        act = cast(nn.Module, getattr(source, "act", nn.Identity()))
        super().__init__(source.num_features, source.eps, act)
        self.weight, self.bias, self.momentum = source.weight, source.bias, source.momentum
        self.running_mean, self.running_var = mean, var
        self.num_batches_tracked = source.num_batches_tracked
        self.batch, self.source = batch, (source,)  # in a tuple it is no child
        self.train(source.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, D, …) to the same."""
        if not self.training or len(self.batch.sizes) < 2:
            return super().forward(input)
        momentum = 1 - (1 - (self.momentum or 0.1)) ** (1 / len(self.batch.sizes))
        parts = [
            F.batch_norm(part, self.running_mean, self.running_var, self.weight, self.bias, True,
                         momentum, self.eps)
            for part in torch.split(input, self.batch.sizes)
        ]  # fmt: skip
        return cast(torch.Tensor, self.act(torch.cat(parts)))


def split_norms(module: nn.Module) -> BatchCameras:
    """Replaces every batch norm of ``module`` by a :class:`SplitNorm`, in place.

    Parameters and buffers are the same tensors as before, under the same names. Undone by
    :func:`join_norms`.
    """
    batch = BatchCameras()
    join_norms(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, _BatchNorm):
            module.set_submodule(name, SplitNorm(layer, batch))
    return batch


def join_norms(module: nn.Module) -> None:
    """Puts the batch norms back that :func:`split_norms` has replaced; in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, SplitNorm):
            module.set_submodule(name, layer.source[0].train(layer.training))
