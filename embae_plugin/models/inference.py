"""Trunks that are not trained any more: as fast as the machine runs them, and with a name."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter, is_
from typing import Any, cast

import torch
from torch import nn

from embae_plugin.models.camera_norm import at_cameras, knows_cameras, of_camera
from embae_plugin.models.onnx_engine import onnx_engine
from embae_plugin.models.trunks import Trunk
from embae_plugin.precision import full_precision

logger = logging.getLogger(__name__)

Features = Callable[[torch.Tensor], torch.Tensor]
"""(B, 3, H, W) normalised images to (B, D) float32 features."""

_Key = tuple[int, int, int]  # camera, height, width
WORTH_IT = 64  # images of a camera after which a frozen copy has paid for itself
MOST = 16  # frozen copies that are kept; one of MobileNet V1 takes 13 MB


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
    trunk: Trunk, size: tuple[int, int], device: torch.device | None = None, camera: int = -1
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


class _State:
    """What a module was like, compared in a tenth of the time that its parameters() takes."""

    def __init__(self, module: nn.Module) -> None:
        self._kept: list[dict[str, Any]] = [
            kept for one in module.modules()
            for kept in (one._modules, one._parameters, one._buffers) if kept
        ]
        self._module, self._members = module, self._now()
        self._tensors = [one for one in self._members if isinstance(one, torch.Tensor)]
        # Tensors made in inference mode count no versions, and cannot be changed outside of it.
        self._counting = [one for one in self._tensors if not one.is_inference()]
        self._numbers = self._count()

    def _now(self) -> list[Any]:
        return [member for kept in self._kept for member in kept.values()]

    def _count(self) -> list[int]:
        versions = map(attrgetter("_version"), self._counting)
        return [*map(torch.Tensor.data_ptr, self._tensors), *versions]

    def holds(self, module: nn.Module) -> bool:
        """Whether this is the module, with the same tensors, in which nothing was written."""
        members = self._now()
        alike = module is self._module and len(members) == len(self._members)
        return alike and all(map(is_, members, self._members)) and self._numbers == self._count()


class FrozenTrunks:
    """Features by copies of a trunk, one for each camera that is asked for often.

    Safe to use from several threads. Copies are made by a thread of its own, while the trunk goes
    on answering. The trunk's weights may change between calls: the copies are then made anew. On
    a GPU, where a copy gains little, and after a copy could not be made, it is the trunk itself.

    Args:
        most: copies to keep, those used last.
    """

    def __init__(self, most: int = MOST) -> None:
        self._copies: dict[_Key, Future[Features | None]] = {}
        self._seen: dict[_Key, int] = {}
        self._state = _State(nn.Module())
        self._most, self._lock = most, threading.Lock()
        self._maker, self._failed = ThreadPoolExecutor(1, "frozen copies"), False

    def features(
        self, trunk: Trunk, x: torch.Tensor, camids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, trunk.feature_dim) of images (B, 3, H, W); call it without gradients.

        Args:
            trunk: in eval mode.
            camids: (B,) or (1,) cameras that the trunk knows, −1 for one never seen; None for −1.
        """
        if x.device.type != "cpu":
            return _by_torch(trunk, x, camids)
        self._forget_if_changed(trunk)
        if camids is None or not knows_cameras(trunk):
            camids = torch.tensor([-1])
        camids = camids.expand(len(x))
        cameras, counts = torch.unique(camids, return_counts=True)
        copies = {camera: self._frozen(trunk, (camera, x.shape[2], x.shape[3]), count)
                  for camera, count in zip(cameras.tolist(), counts.tolist(), strict=True)}
        if len(copies) == 1:
            copy = copies.popitem()[1]
            return _by_torch(trunk, x, cameras) if copy is None else copy(x)
        found, alone = x.new_empty(len(x), trunk.feature_dim), torch.ones(len(x)) > 0
        for camera, copy in copies.items():
            if copy is not None:
                rows = camids == camera
                found[rows], alone[rows] = copy(x[rows]), False
        if alone.any():  # images of cameras that have no copy go together
            found[alone] = _by_torch(trunk, x[alone], camids[alone])
        return found

    def _forget_if_changed(self, trunk: Trunk) -> None:
        if self._state.holds(trunk):
            return
        with self._lock:
            if self._state.holds(trunk):  # another thread was first
                return
            self._state = _State(trunk)
            for copy in self._copies.values():
                copy.cancel()
            self._copies.clear()
            self._seen.clear()

    def _frozen(self, trunk: Trunk, key: _Key, images: int) -> Features | None:
        """The copy for a camera, or None before it is ready and while it would not pay."""
        with self._lock:
            copy = self._copies.pop(key, None)
            if copy is None:
                self._seen[key] = self._seen.get(key, 0) + images
                if self._failed or self._seen[key] < WORTH_IT:
                    return None
                copy = self._maker.submit(self._make, trunk, *key)
            self._copies[key] = copy  # the last is the one used last
            while len(self._copies) > self._most:
                dropped = next(iter(self._copies))
                self._copies.pop(dropped).cancel()
                self._seen[dropped] = 0
            return copy.result() if copy.done() else None

    def _make(self, trunk: Trunk, camera: int, height: int, width: int) -> Features | None:
        try:
            with torch.inference_mode():
                return freeze(trunk, (height, width), camera=camera)
        except Exception:  # of whatever library; the answers are the same without a copy
            if not self._failed:
                logger.warning("%s cannot be frozen, which costs speed alone", trunk.name,
                               exc_info=True)
            self._failed = True
            return None


def _by_torch(trunk: Trunk, x: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor:
    with at_cameras(trunk, camids):
        return cast(torch.Tensor, trunk(x.contiguous(memory_format=inference_format(x.device))))
