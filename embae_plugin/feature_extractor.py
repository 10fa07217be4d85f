"""A stand-in for torchreid's ``FeatureExtractor``: trackers switch by one import."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.single_images import check_image_tensor
from embae_plugin.models.door import open_model, open_network
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.reid import ReID, pick_device

logger = logging.getLogger(__name__)


class FeatureExtractor:
    """torchreid's ``FeatureExtractor`` for any model, with cameras: the same call and results.

    A tracker that was written for torchreid's changes one import::

        from embae_plugin import FeatureExtractor   # was: from torchreid.utils import …

        extractor = FeatureExtractor(model_path="adapted/", camera="gate", device="cuda")
        features = extractor(crops)                  # torch.Tensor (N, d) on the device

    Args:
        model_name: torchreid's name of the network; not needed for a checkpoint of EmbAE, and
            for one of torchreid's only where its weights do not tell. Without a ``model_path``
            the call is handed to torchreid's own class, which fetches ImageNet weights.
        model_path: the folder of `embae adapt`, a file, or a name; see :func:`open_model`.
        image_size: (height, width); None for the checkpoint's own.
        pixel_mean, pixel_std: None for the checkpoint's own.
        pixel_norm: False leaves images in [0, 1].
        device: ``cuda``, ``cuda:1``, ``cpu``; the CPU is taken where there is no GPU.
        verbose: log which model it is.
        camera: name of the camera whose crops come, for a model adapted by camera; a call may
            name others. ``"unknown"`` for one that the model has never seen.
        bgr: numpy arrays are B, G, R, as OpenCV reads them.
        normalize: scale features to length 1 (torchreid's never does).
        tta: ``none`` as torchreid, or ``flip`` for better features in twice the time.

    Raises:
        FileNotFoundError, ValueError: see :func:`embae_plugin.models.door.open_model`; also a
            camera that the model does not know.
    """

    def __init__(
        self, model_name: str = "", model_path: str | Path = "",
        image_size: tuple[int, int] | int | None = None,
        pixel_mean: Sequence[float] | None = None, pixel_std: Sequence[float] | None = None,
        pixel_norm: bool = True, device: str | torch.device = "cuda", verbose: bool = True, *,
        camera: str | int | None = None, bgr: bool = False, normalize: bool = False,
        tta: str = "none",
    ) -> None:
        self.device = pick_device(device)
        self.camera, self.bgr, self.normalize, self.tta = camera, bgr, normalize, tta
        self._stock: Any = None
        if not model_path:
            if not model_name:
                raise ValueError("model_path must name a checkpoint, the folder of one, or a model")
            if camera is not None:
                raise ValueError(f"camera {camera!r}: {model_name} as it comes knows no cameras")
            if model_name not in bridge.model_table():
                raise ValueError(f"model_name {model_name!r} is not in torchreid's zoo, and no "
                                 "model_path names a checkpoint")
            given = {"image_size": image_size, "pixel_mean": pixel_mean, "pixel_std": pixel_std}
            self._stock = bridge.FeatureExtractor(
                model_name, "", pixel_norm=pixel_norm, device=str(self.device), verbose=verbose,
                **{name: value for name, value in given.items() if value is not None},
            )
            self.model = self._stock.model
            return
        arch, size = "" if model_name.startswith("embae_") else model_name, (0, 0)
        if image_size is not None:
            size = (image_size, image_size) if isinstance(image_size, int) else image_size
            if not isinstance(size, Sequence) or len(size) != 2:
                raise ValueError(f"image_size {size!r}: give (height, width), or one number")
        bundle = open_network(model_path, *size, arch=arch) if arch else None
        bundle = bundle or open_model(model_path, *size)
        own = bundle.input
        mean = own.norm_mean if pixel_mean is None else pixel_mean
        std = own.norm_std if pixel_std is None else pixel_std
        if not pixel_norm:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        bundle.input = InputSpec.make(own.height, own.width, mean, std)
        self.reid = ReID(bundle, self.device)
        self.model = self.reid.model
        if camera is not None:
            self.reid.camera_numbers(camera, 1)
        if verbose:
            logger.info("%s: %s, %d features", model_path, self.model.trunk.name,
                        self.reid.feature_dim)

    @torch.inference_mode()
    def __call__(self, input: Any, camera: Any = None) -> torch.Tensor:
        """Features (N, d) on the device. Safe to call from several threads.

        Args:
            input: a file name or numpy array (H, W, 3) in R, G, B order (see ``bgr``), a list of
                them, or, as with torchreid's, a tensor (3, H, W) or (N, 3, H, W) that is resized
                and normalised already (not looked into: what is NaN stays NaN).
            camera: the camera of these images, or of each of them; None for the constructor's.

        Raises:
            ValueError, CorruptImageError: see :meth:`ReID.embed`; also a tensor of another shape,
                or not of floating-point numbers.
        """
        if self._stock is not None:
            if camera is not None:
                raise ValueError(f"camera {camera!r}: this model knows no cameras")
            return cast(torch.Tensor, self._stock(input))
        camera = self.camera if camera is None else camera
        if not isinstance(input, torch.Tensor):
            return self.reid.embed_tensor(input, camera, self.normalize, self.tta, bgr=self.bgr)
        for image in input if input.ndim == 4 else (input,):
            check_image_tensor(image)
        if not input.is_floating_point():
            raise ValueError(
                f"a tensor of {input.dtype}: tensors are normalised already; give pixels as numpy "
                "arrays"
            )
        batch = (input[None] if input.ndim == 3 else input).to(self.device).float()
        numbers = self.reid.camera_numbers(camera, len(batch))
        return self.reid.embed_batch(batch, numbers, self.normalize, self.tta)
