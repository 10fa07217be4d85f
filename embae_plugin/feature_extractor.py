"""A stand-in for torchreid's ``FeatureExtractor``: trackers switch by one import."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.single_images import check_image_tensor
from embae_plugin.models.bundle import InputSpec, load_bundle
from embae_plugin.models.checkpoint_file import FORMAT, read_file
from embae_plugin.reid import ReID, pick_device

logger = logging.getLogger(__name__)


class FeatureExtractor:
    """torchreid's ``FeatureExtractor`` for an EmbAE checkpoint: the same call, the same results.

    A tracker that was written for torchreid's changes one import::

        from embae_plugin import FeatureExtractor   # was: from torchreid.utils import …

        extractor = FeatureExtractor(model_path="adapted/", device="cuda")
        features = extractor(crops)                  # torch.Tensor (N, d) on the device

    Args:
        model_name: not needed for an EmbAE checkpoint, which knows its network. With a
            ``model_path`` that is none, the call is handed to torchreid's own class.
        model_path: the folder of `embae adapt`, or a checkpoint file.
        image_size: (height, width); None for the checkpoint's own.
        pixel_mean, pixel_std: None for the checkpoint's own.
        pixel_norm: False leaves images in [0, 1].
        device: ``cuda``, ``cuda:1``, ``cpu``; the CPU is taken where there is no GPU.
        verbose: log which model it is.
        normalize: scale features to length 1 (torchreid's never does).
        tta: ``none`` as torchreid, or ``flip`` for better features in twice the time.

    Raises:
        FileNotFoundError, ValueError: see :func:`embae_plugin.models.bundle.load_bundle`.
    """

    def __init__(
        self,
        model_name: str = "",
        model_path: str | Path = "",
        image_size: tuple[int, int] | int | None = None,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        pixel_norm: bool = True,
        device: str | torch.device = "cuda",
        verbose: bool = True,
        *,
        normalize: bool = False,
        tta: str = "none",
    ) -> None:
        self.device = pick_device(device)
        self.normalize, self.tta = normalize, tta
        self._stock: Any = None
        if model_name and not _is_embae(model_path):
            given = {"image_size": image_size, "pixel_mean": pixel_mean, "pixel_std": pixel_std}
            if model_name not in bridge.available_models():
                raise ValueError(f"model_name {model_name!r} is neither in torchreid's zoo, nor is "
                                 f"model_path {str(model_path)!r} an EmbAE checkpoint")  # fmt: skip
            chosen = {name: value for name, value in given.items() if value is not None}
            self._stock = bridge.FeatureExtractor(
                model_name, str(model_path), pixel_norm=pixel_norm, device=str(self.device),
                verbose=verbose, **chosen,
            )  # fmt: skip
            self.model = self._stock.model
            return
        if not model_path:
            raise ValueError("model_path must name an EmbAE checkpoint or the folder of one")
        bundle = load_bundle(model_path, *_height_and_width(image_size))
        own = bundle.input
        mean = own.norm_mean if pixel_mean is None else pixel_mean
        std = own.norm_std if pixel_std is None else pixel_std
        if not pixel_norm:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        bundle.input = InputSpec.make(own.height, own.width, mean, std)
        self.reid = ReID(bundle, self.device)
        self.model = self.reid.model
        if verbose:
            logger.info("%s: %s, %d features", model_path, self.model.trunk.name,
                        self.reid.feature_dim)  # fmt: skip

    @torch.inference_mode()
    def __call__(self, input: Any) -> torch.Tensor:
        """Features (N, d) on the device.

        Args:
            input: a file name or numpy array (H, W, 3) in R, G, B order, a list of them, or, as
                with torchreid's, a tensor (3, H, W) or (N, 3, H, W) that is resized and
                normalised already (not looked into: what is NaN stays NaN).

        Raises:
            ValueError, CorruptImageError: see :meth:`ReID.embed`; also a tensor of another shape,
                or not of floating-point numbers.
        """
        if self._stock is not None:
            return cast(torch.Tensor, self._stock(input))
        if not isinstance(input, torch.Tensor):
            return self.reid.embed_tensor(input, normalize=self.normalize, tta=self.tta)
        for image in input if input.ndim == 4 else (input,):
            check_image_tensor(image)
        if not input.is_floating_point():
            raise ValueError(f"a tensor of {input.dtype}: tensors are normalised already; give "
                             "pixels as numpy arrays")  # fmt: skip
        batch = (input[None] if input.ndim == 3 else input).to(self.device).float()
        return self.reid.embed_batch(batch, None, self.normalize, self.tta)


def _height_and_width(size: Any) -> tuple[int, int]:
    """``image_size`` of torchreid's class as two numbers; 0 for the checkpoint's own."""
    if size is None:
        return 0, 0
    if isinstance(size, int):
        return size, size
    if not isinstance(size, Iterable) or len(pair := tuple(size)) != 2:
        raise ValueError(f"image_size {size!r}: give (height, width), or one number for both")
    return pair[0], pair[1]


def _is_embae(path: str | Path) -> bool:
    """Whether a path leads to an EmbAE checkpoint."""
    if not str(path):
        return False
    path = Path(path)
    if path.is_dir() or not path.exists():
        return path.is_dir()
    payload = read_file(path)
    return isinstance(payload, dict) and payload.get("format") == FORMAT
