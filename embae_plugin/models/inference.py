"""A trunk that is no longer trained: as fast as the machine runs it, and with a name."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from embae_plugin.models.camera_norm import of_camera
from embae_plugin.models.onnx_engine import onnx_engine
from embae_plugin.precision import full_precision

if TYPE_CHECKING:
    from embae_plugin.models.trunks import Trunk

logger = logging.getLogger(__name__)

Features = Callable[[torch.Tensor], torch.Tensor]
"""(B, 3, H, W) normalised images to (B, D) float32 features."""


def trunk_fingerprint(trunk: Trunk) -> str:
    """16 hexadecimal digits that name what the trunk computes: its kind, its inputs, its weights.

    Two trunks of one fingerprint give the same features; used to key stored features.
    """
    digest = hashlib.sha256(repr((trunk.name, trunk.norm_mean, trunk.norm_std)).encode())
    for name, value in trunk.state_dict().items():
        if name.endswith("num_batches_tracked"):  # counts training, changes no feature
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(raw.numpy()))
    return digest.hexdigest()[:16]


def inference_format(device: torch.device) -> torch.memory_format:
    """The memory order in which float32 images go through a network that isn't trained.

    channels_last is the faster one on a processor. On a GPU it gains nothing in float32, and
    cuDNN builds kernels anew for each size of a batch, which takes seconds.
    """
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


class _InFormat(nn.Module):
    """A network that brings its images into an order first."""

    def __init__(self, net: nn.Module, order: torch.memory_format) -> None:
        super().__init__()
        self.net, self._order = net.to(memory_format=order), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network makes of (B, 3, H, W)."""
        return cast(torch.Tensor, self.net(x.contiguous(memory_format=self._order))).float()


def freeze(
    trunk: Trunk,
    size: tuple[int, int],
    device: torch.device | None = None,
    camera: int = -1,
) -> Features:
    """The trunk as it is now, for images of one camera: a copy that nothing changes any more.

    On a processor onnxruntime computes it, where it is installed and gives the trunk's own
    features; torch does otherwise. Safe to call from several threads; call it without gradients.

    Args:
        trunk: is left as it is.
        size: (height, width) of the images.
        device: where to compute; the trunk's own if None.
        camera: whose statistics are used, if the trunk has some; −1 for one never seen.
    """
    plain = of_camera(trunk, camera).eval().requires_grad_(False)
    plain = plain if device is None else plain.to(device)
    where = next(plain.parameters()).device
    in_torch = _InFormat(plain, inference_format(where)).eval()
    if where.type != "cpu":
        return in_torch
    engine = onnx_engine(trunk.name, plain, size)
    return in_torch if engine is None or not _agrees(engine, in_torch, size) else engine


@torch.inference_mode()
def _agrees(engine: Features, net: nn.Module, size: tuple[int, int]) -> bool:
    """Whether an engine gives a network's features, up to a ten-thousandth of the largest."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with full_precision(image.device):
        expected = net(image)
    try:
        found = engine(image)
    except Exception as failure:  # onnxruntime's own classes, straight below Exception
        logger.info("onnxruntime is left out, it fails: %s", str(failure).splitlines()[:1])
        return False
    error = math.inf  # two rows for one image, where the graph holds the size of a batch
    if found.shape == expected.shape:
        error = float((found - expected).abs().max() / expected.abs().max().clamp(1e-12))
    if error > 1e-4:
        logger.info("onnxruntime changes features by %.1g and is left out", error)
    return error <= 1e-4
