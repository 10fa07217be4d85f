"""Batch normalisation with statistics for each camera (Zhuang et al., ECCV 2020).

Cameras differ in light, colour and resolution, which shifts every layer's activations. With one
set of statistics for all, that shift stays in the embedding, and pictures of one camera look
alike; with each camera normalised by its own, it goes, and no label is needed to find them.
Weights and biases stay shared. Row C, behind those of C cameras, is for a camera never seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Net = TypeVar("Net", bound=nn.Module)

LEAST = 4  # rows of a camera in a training batch; with fewer, its running statistics serve


class _Cameras(NamedTuple):
    """Rows of the statistics, (B,) or (1,); in training, the runs of rows of one camera."""

    rows: torch.Tensor
    runs: tuple[list[int], list[int]] | None


# An argument of `at_cameras` on its way through networks whose layers take images alone. Each
# thread has a context of its own, so that no two batches see one another's cameras.
_named: ContextVar[_Cameras | None] = ContextVar("cameras of the batch", default=None)


def statistics_of(source: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch norm's running mean and variance; ValueError if it has none, or no weight."""
    if source.running_mean is None or source.running_var is None or source.weight is None:
        raise ValueError(
            "a batch norm without running statistics or weights cannot have each camera's own"
        )
    return source.running_mean, source.running_var


class CameraNorm(nn.Module):
    """A batch norm layer's stand-in with statistics for each of C cameras, and for others.

    In training each camera's rows are normalised by their own moments and move that camera's
    running statistics; fewer than four move these by less, and are normalised by them. In eval
    mode each row is normalised by the running statistics of its camera.

    Args:
        source: the batch norm to replace; its weight, bias and activation are taken over, its
            statistics are every camera's first.
        cameras: C.

    Raises:
        ValueError: a batch norm that has no running statistics, or no weight; in training, a
            batch whose cameras :func:`at_cameras` was not told.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, source: _BatchNorm, cameras: int) -> None:
        super().__init__()
        mean, var = statistics_of(source)
        self.weight, self.bias = source.weight, source.bias
        self.eps, self.momentum = source.eps, source.momentum or 0.1
        self.source = (source,)  # in a tuple it is no child
        self.act = copy.deepcopy(cast(nn.Module, getattr(source, "act", nn.Identity())))
        self.register_buffer("running_mean", mean.repeat(cameras + 1, 1))
        self.register_buffer("running_var", var.repeat(cameras + 1, 1))
        self.train(source.training)

    @property
    def cameras(self) -> int:
        """C."""
        return len(self.running_mean) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) or (B, D, H, W) to the same."""
        named = _named.get()
        if self.training:
            if named is None or named.runs is None:
                raise ValueError("a model with statistics by camera is trained without the "
                                 "cameras of its images: pass them to forward (camids), or train "
                                 "the model that it was adapted from")
            # split, whose gradient is one cat; that of x[a:b] is as large as x, for each camera
            numbers, sizes = named.runs
            parts = zip(torch.split(x, sizes), numbers, strict=True)
            return cast(torch.Tensor, self.act(torch.cat([self._train(*part) for part in parts])))
        rows = slice(-1, None) if named is None else named.rows  # −1, never seen, is the last
        mean, var = self.running_mean[rows], self.running_var[rows]
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        shape = (*scale.shape, *([1] * (x.ndim - 2)))
        scaled = torch.addcmul(shift.view(shape).to(x.dtype), x, scale.view(shape).to(x.dtype))
        return cast(torch.Tensor, self.act(scaled))

    def _train(self, x: torch.Tensor, camera: int) -> torch.Tensor:
        own = len(x) >= LEAST
        mean, var = self.running_mean[camera], self.running_var[camera]
        if not own:
            mean, var = self._move(x.detach().to(mean.dtype), camera)
        return F.batch_norm(x, mean, var, self.weight, self.bias, own, self.momentum, self.eps)

    def _move(self, x: torch.Tensor, camera: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves a camera's running moments by few rows, and returns them.

        They become those of a mixture in which the rows have the momentum times their share of
        four. The variance within a row or two is too small; with the distance of their mean from
        the running one it comes out about right over the steps.
        """
        before, spread = self.running_mean[camera], self.running_var[camera]
        share = self.momentum * len(x) / LEAST
        var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        apart = share * (1 - share) * (mean - before).square()
        moved = before.lerp(mean, share), spread.lerp(var, share) + apart
        # By .data: autograd holds views of these buffers for the cameras before, would take this
        # for a mistake, and reads none of them: their moments are the rows' own, or copies.
        self.running_mean.data[camera], self.running_var.data[camera] = moved
        return moved

    def plain(self, camera: int) -> nn.Module:
        """An ordinary batch norm with one camera's statistics and the shared weights, eval mode."""
        norm = copy.deepcopy(self.source[0])
        norm.weight, norm.bias = self.weight, self.bias
        norm.running_mean = self.running_mean[camera].clone()
        norm.running_var = self.running_var[camera].clone()
        return norm.eval()


def use_cameras(module: nn.Module, cameras: int) -> None:
    """Replaces every batch norm of ``module`` by a :class:`CameraNorm`, in place.

    Raises:
        ValueError: no cameras, or no batch norm that could be replaced.
    """
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, _BatchNorm)]
    if cameras < 1 or not layers:
        raise ValueError(f"statistics for {cameras} cameras in {len(layers)} batch norm layers: "
                         "there must be at least one of each")
    for name, layer in layers:
        module.set_submodule(name, CameraNorm(layer, cameras))


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a layer is a batch norm, which could have statistics by camera."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def camera_layers(module: nn.Module) -> list[CameraNorm]:
    """The layers of ``module`` that know cameras."""
    return [layer for layer in module.modules() if isinstance(layer, CameraNorm)]


def knows_cameras(module: nn.Module) -> bool:
    """Whether a layer of ``module`` has statistics by camera."""
    return any(isinstance(layer, CameraNorm) for layer in module.modules())


def of_camera(module: Net, camera: int) -> Net:
    """A copy of ``module`` with ordinary batch norms of one camera's statistics (−1: unknown)."""
    plain = copy.deepcopy(module)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, CameraNorm):
            plain.set_submodule(name, layer.plain(camera))
    return plain


@contextmanager
def at_cameras(
    module: nn.Module, camids: torch.Tensor | None, common: bool = False
) -> Iterator[None]:
    """Names the camera of each row to the layers of ``module`` while the block runs.

    Args:
        camids: (B,) numbers of cameras, −1 for one never seen; in training sorted, so that each
            camera's rows lie together. One number serves all rows in eval mode.
        common: −1 is allowed in training, too; its rows move the statistics for cameras never
            seen.

    Raises:
        ValueError: in training, rows of a camera that do not lie together, or of an unknown one.
    """
    layer = next(iter(camera_layers(module)), None)
    if layer is None:
        yield
        return
    named = None
    if camids is not None:
        known = range(-1 if common else 0, layer.cameras)
        named = _Cameras(camids, runs(camids, known) if layer.training else None)
    token = _named.set(named)
    try:
        yield
    finally:
        _named.reset(token)


def runs(cameras: torch.Tensor, known: range | None = None) -> tuple[list[int], list[int]]:
    """The camera of each run of rows in a training batch sorted by camera, and how many they are.

    Args:
        cameras: (B,) numbers.
        known: those that there may be; None for any.

    Raises:
        ValueError: rows of a camera that do not lie together, or of one that is not known.
    """
    found, counts = torch.unique_consecutive(cameras.cpu(), return_counts=True)
    numbers = found.tolist()
    strange = known is not None and any(number not in known for number in numbers)
    if strange or len(set(numbers)) < len(numbers):
        limit = "" if known is None else f", and its cameras be 0 to {known.stop - 1}"
        raise ValueError(f"a training batch must be sorted by camera{limit}; it has cameras "
                         f"{numbers[:8]}, in this order")
    return numbers, counts.tolist()
