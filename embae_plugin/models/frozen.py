"""Features of batches that come one by one: by torch at first, by frozen copies once they pay."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, cast

import torch

from embae_plugin.models.camera_norm import at_cameras, knows_cameras
from embae_plugin.models.inference import Features, freeze, inference_format
from embae_plugin.models.trunks import Trunk

logger = logging.getLogger(__name__)

WORTH_IT = 64  # images of a camera after which a frozen copy has paid for itself
FEW = 4  # images of a camera in a batch below which they go together with the others'
MOST = 16  # frozen copies that are kept; one of MobileNet V1 takes 13 MB


class FrozenTrunks:
    """Features by copies of a trunk, one for each camera that is asked for often.

    Safe to use from several threads. Copies are made by a thread of its own, while the trunk goes
    on answering. The trunk's weights may change between calls: the copies are then made anew. On
    a GPU, where a copy gains little, and after a copy could not be made, it is the trunk itself.

    Args:
        most: copies to keep, those used last.
    """

    def __init__(self, most: int = MOST) -> None:
        self._copies: dict[tuple[int, int, int], Future[Features | None]] = {}
        self._seen: dict[tuple[int, int, int], int] = {}
        self._state: Any = None
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
        cameras = [-1]
        if camids is not None and knows_cameras(trunk):
            cameras = torch.unique(camids).tolist()
        if x.device.type != "cpu" or len(x) < FEW * len(cameras):
            return _by_torch(trunk, x, camids)
        self._forget_if_changed(trunk)
        if len(cameras) == 1 or camids is None:
            return self._of_camera(trunk, x, cameras[0])
        found = x.new_empty(len(x), trunk.feature_dim)
        for camera in cameras:
            rows = camids == camera
            found[rows] = self._of_camera(trunk, x[rows], camera)
        return found

    def _of_camera(self, trunk: Trunk, x: torch.Tensor, camera: int) -> torch.Tensor:
        frozen = self._frozen(trunk, camera, x)
        return _by_torch(trunk, x, torch.tensor([camera])) if frozen is None else frozen(x)

    def _forget_if_changed(self, trunk: Trunk) -> None:
        # Tensors made in inference mode count no versions, and cannot be changed outside of it.
        state = [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in chain(trunk.parameters(), trunk.buffers())
        ]
        with self._lock:
            if state != self._state:
                self._state = state
                for copy in self._copies.values():
                    copy.cancel()
                self._copies.clear()
                self._seen.clear()

    def _frozen(self, trunk: Trunk, camera: int, x: torch.Tensor) -> Features | None:
        """The copy for a camera, or None before it is ready and while it would not pay."""
        key = (camera, x.shape[2], x.shape[3])
        with self._lock:
            copy = self._copies.pop(key, None)
            if copy is None:
                self._seen[key] = self._seen.get(key, 0) + len(x)
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
