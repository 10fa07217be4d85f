"""A trunk in use: folded for speed once enough images have come, by the camera they are from."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from embae_plugin.models.camera_norm import at_cameras, camera_layers, of_camera
from embae_plugin.models.inference import fuse_for_inference
from embae_plugin.models.trunks import Trunk

WORTH_IT = 64  # images after which folding, which takes the time of some fifteen, has paid
FEW = 4  # images of a camera in a batch below which they go together with the others'
MOST = 16  # folded copies that are kept; one of MobileNet V1 takes 13 MB


class FoldedTrunk:
    """Features of batches that come one by one, faster on a processor.

    The trunk's weights may change: folded copies are then made anew. On a GPU, where folding
    gains little, it is the trunk itself.

    Args:
        most: copies to keep, those used last.
    """

    def __init__(self, most: int = MOST) -> None:
        self._copies: dict[int, nn.Module] = {}
        self._seen: dict[int, int] = {}
        self._state: Any = None
        self._most = most

    def features(
        self, trunk: Trunk, x: torch.Tensor, camids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, trunk.feature_dim) of images (B, 3, H, W); call it without gradients.

        Args:
            trunk: in eval mode.
            camids: (B,) or (1,) cameras that the trunk knows, −1 for one never seen; None for −1.
        """
        cameras = [-1]
        if camids is not None and camera_layers(trunk):
            cameras = torch.unique(camids).tolist()
        if x.device.type != "cpu" or len(x) < FEW * len(cameras):
            with at_cameras(trunk, camids):
                return cast(torch.Tensor, trunk(x))
        self._forget_if_changed(trunk)
        if len(cameras) == 1 or camids is None:
            return self._of_camera(trunk, x, cameras[0])
        found = x.new_empty(len(x), trunk.feature_dim)
        for camera in cameras:
            rows = camids == camera
            found[rows] = self._of_camera(trunk, x[rows], camera)
        return found

    def _of_camera(self, trunk: Trunk, x: torch.Tensor, camera: int) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        folded = self._folded(trunk, camera, len(x))
        if folded is not None:
            return cast(torch.Tensor, folded(x))
        with at_cameras(trunk, torch.tensor([camera])):
            return cast(torch.Tensor, trunk(x))

    def _forget_if_changed(self, trunk: Trunk) -> None:
        # Tensors made in inference mode count no versions, and cannot be changed outside of it.
        state = [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in chain(trunk.parameters(), trunk.buffers())
        ]
        if state != self._state:
            self._state = state
            self._copies.clear()
            self._seen.clear()

    def _folded(self, trunk: Trunk, camera: int, images: int) -> nn.Module | None:
        """The copy for a camera, or None while it would not pay to make one."""
        copy = self._copies.pop(camera, None)
        if copy is None:
            self._seen[camera] = self._seen.get(camera, 0) + images
            if self._seen[camera] < WORTH_IT:
                return None
            copy = fuse_for_inference(of_camera(trunk, camera))
        self._copies[camera] = copy  # the last is the one used last
        while len(self._copies) > self._most:
            dropped = next(iter(self._copies))
            self._copies.pop(dropped, None)
            self._seen[dropped] = 0
        return copy
