"""A stand-in for torchreid's ``FeatureExtractor``: trackers switch by one import."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from embae_plugin import torchreid_bridge as bridge
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
            chosen = {name: value for name, value in given.items() if value is not None}
            self._stock = bridge.FeatureExtractor(
                model_name, str(model_path), pixel_norm=pixel_norm, device=str(self.device),
                verbose=verbose, **chosen,
            )  # fmt: skip
            self.model = self._stock.model
            return
        if not model_path:
            raise ValueError("model_path must name an EmbAE checkpoint or the folder of one")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size or (0, 0)
        bundle = load_bundle(model_path, *size)
        own = bundle.input
        mean, std = pixel_mean or own.norm_mean, pixel_std or own.norm_std
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
                normalised already.
        """
        if self._stock is not None:
            return cast(torch.Tensor, self._stock(input))
        if not isinstance(input, torch.Tensor):
            return self.reid.embed_tensor(input, normalize=self.normalize, tta=self.tta)
        batch = (input[None] if input.ndim == 3 else input).to(self.device)
        return self.reid.embed_batch(batch, None, self.normalize, self.tta)


def _is_embae(path: str | Path) -> bool:
    """Whether a path leads to an EmbAE checkpoint."""
    if not str(path):
        return False
    path = Path(path)
    if path.is_dir() or not path.exists():
        return path.is_dir()
    payload = read_file(path)
    return isinstance(payload, dict) and payload.get("format") == FORMAT
