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
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Net = TypeVar("Net", bound=nn.Module)

LEAST = 4  # images of a camera in a training batch; with fewer, its running statistics serve


class CurrentCameras:
    """Which camera each row of the running batch is from; shared by the layers of a model.

    Attributes:
        index: (B,) or (1,) rows of the statistics; None for the camera never seen.
        slices: in training, (camera, first row, end) of a batch sorted by camera.
    """

    def __init__(self) -> None:
        self.index: torch.Tensor | None = None
        self.slices: list[tuple[int, int, int]] = []


def statistics_of(source: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch norm's running mean and variance; ValueError if it has none, or no weight."""
    if source.running_mean is None or source.running_var is None or source.weight is None:
        raise ValueError(
            "a batch norm without running statistics or weights cannot have each camera's own"
        )
    return source.running_mean, source.running_var


class CameraNorm(nn.Module):
    """A batch norm layer's stand-in with statistics for each of C cameras, and for others.

    In training each camera's rows are normalised by their own moments (by its running ones where
    there are fewer than four) and move that camera's running statistics; in eval mode each row is
    normalised by the running statistics of its camera.

    Args:
        source: the batch norm to replace; its weight, bias and activation are taken over, its
            statistics are every camera's first.
        cameras: C.
        current: shared by all layers of the model.

    Raises:
        ValueError: a batch norm that has no running statistics, or no weight.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, source: _BatchNorm, cameras: int, current: CurrentCameras) -> None:
        super().__init__()
        mean, var = statistics_of(source)
        self.weight, self.bias = source.weight, source.bias
        self.eps, self.momentum = source.eps, source.momentum or 0.1
        self.act = copy.deepcopy(cast(nn.Module, getattr(source, "act", nn.Identity())))
        self.current = current
        self.register_buffer("running_mean", mean.repeat(cameras + 1, 1))
        self.register_buffer("running_var", var.repeat(cameras + 1, 1))
        self.train(source.training)

    @property
    def cameras(self) -> int:
        """C."""
        return len(self.running_mean) - 1

    def extra_repr(self) -> str:
        """Shown by ``repr``."""
        return f"{self.running_mean.shape[1]}, cameras={self.cameras}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) or (B, D, H, W) to the same."""
        if self.training and self.current.slices:
            slices = self.current.slices
            # split, whose gradient is one cat; that of x[a:b] is as large as x, for each camera
            parts = torch.split(x, [end - start for _, start, end in slices])
            normed = [self._train(part, slices[n][0]) for n, part in enumerate(parts)]
            return cast(torch.Tensor, self.act(torch.cat(normed)))
        if self.current.index is None:
            mean, var = self.running_mean[-1:], self.running_var[-1:]
        else:
            index = self.current.index  # −1, never seen, is the last row
            mean, var = self.running_mean[index], self.running_var[index]
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        shape = (*scale.shape, *([1] * (x.ndim - 2)))
        scaled = torch.addcmul(shift.view(shape).to(x.dtype), x, scale.view(shape).to(x.dtype))
        return cast(torch.Tensor, self.act(scaled))

    def _train(self, x: torch.Tensor, camera: int) -> torch.Tensor:
        mean, var = self.running_mean[camera], self.running_var[camera]
        own = len(x) >= LEAST
        return F.batch_norm(x, mean, var, self.weight, self.bias, own, self.momentum, self.eps)

    def plain(self, camera: int) -> nn.Module:
        """An ordinary batch norm with one camera's statistics (−1: of one never seen), eval mode.

        Weights are shared with this layer, statistics copied.
        """
        norm = ActivatedNorm(self.weight.shape[0], self.eps, self.act)
        norm.weight, norm.bias = self.weight, self.bias
        norm.running_mean = self.running_mean[camera].clone()
        norm.running_var = self.running_var[camera].clone()
        return norm.eval()


class ActivatedNorm(nn.BatchNorm2d):
    """Batch norm and activation in one layer, as timm has them; of (B, D) inputs, too."""

    def __init__(self, width: int, eps: float, act: nn.Module) -> None:
        super().__init__(width, eps=eps)
        self.act = act

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, D, …) to the same."""
        return cast(torch.Tensor, self.act(super().forward(input)))


def use_cameras(
    module: nn.Module, cameras: int, current: CurrentCameras | None = None
) -> CurrentCameras:
    """Replaces every batch norm of ``module`` by a :class:`CameraNorm`, in place.

    Raises:
        ValueError: no cameras, or no batch norm that could be replaced.
    """
    current = current or CurrentCameras()
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, _BatchNorm)]
    if cameras < 1 or not layers:
        raise ValueError(
            f"statistics for {cameras} cameras in {len(layers)} batch norm layers: there must be "
            "at least one of each"
        )
    for name, layer in layers:
        module.set_submodule(name, CameraNorm(layer, cameras, current))
    return current


def camera_layers(module: nn.Module) -> list[CameraNorm]:
    """The layers of ``module`` that know cameras."""
    return [layer for layer in module.modules() if isinstance(layer, CameraNorm)]


def current_of(module: nn.Module) -> CurrentCameras | None:
    """What names the cameras of a batch to the layers of ``module``; None if none knows them."""
    return next((layer.current for layer in camera_layers(module)), None)


def of_camera(module: Net, camera: int) -> Net:
    """A copy of ``module`` with ordinary batch norms that hold one camera's statistics.

    It can be folded and exported like any other network.
    """
    plain = copy.deepcopy(module)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, CameraNorm):
            plain.set_submodule(name, layer.plain(camera))
    return plain


@contextmanager
def at_cameras(module: nn.Module, camids: torch.Tensor | None) -> Iterator[None]:
    """Names the camera of each row to the layers of ``module`` while the block runs.

    Args:
        camids: (B,) numbers of cameras, −1 for one never seen; in training sorted, so that each
            camera's rows lie together. One number serves all rows in eval mode.

    Raises:
        ValueError: in training, rows of a camera that do not lie together, or of an unknown one.
    """
    layer = next(iter(camera_layers(module)), None)
    if layer is None:
        yield
        return
    current = layer.current
    before = (current.index, current.slices)
    slices = [] if camids is None or not module.training else _slices(camids, layer.cameras)
    current.index, current.slices = camids, slices
    try:
        yield
    finally:
        current.index, current.slices = before


def _slices(camids: torch.Tensor, known: int) -> list[tuple[int, int, int]]:
    cameras, counts = torch.unique_consecutive(camids.cpu(), return_counts=True)
    ends = counts.cumsum(0)
    together = len(cameras.unique()) == len(cameras)
    if not together or int(cameras.min()) < 0 or int(cameras.max()) >= known:
        raise ValueError(
            f"a training batch must be sorted by camera, and its cameras be 0 to {known - 1}; it "
            f"has cameras {cameras[:8].tolist()}, in this order"
        )
    starts = (ends - counts).tolist()
    return list(zip(cameras.tolist(), starts, ends.tolist(), strict=True))
