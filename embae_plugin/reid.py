"""Embeddings of person crops in one call."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.embedder import Embedder
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.door import open_model

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is a GPU where there is one; a CUDA device that is not there becomes the CPU.

    Raises:
        ValueError: nothing can be computed there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r}: must be auto, cpu, cuda or cuda:NUMBER") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        logger.warning("there is no CUDA device here; the CPU is used instead of %s", device)
        return torch.device("cpu")
    try:
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device {chosen} cannot be used here: {reason}") from None
    return chosen


class ReID:
    """A person re-identification model ready for use.

    >>> reid = ReID.load("adapted/")                      # doctest: +SKIP
    >>> reid.embed("crop.jpg").shape                      # one image: still two dimensions
    (1, 128)
    >>> reid.embed(["a.jpg", pil_image, array]).shape     # many, of any sizes and kinds
    (3, 128)
    >>> distance = np.linalg.norm(e[0] - e[1])            # smaller: likelier the same person

    Args:
        bundle: a model with its input, see :func:`open_model`.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.

    Attributes:
        model: the network, in eval mode, on ``device``.
        input: the :class:`InputSpec` that images are brought to.
        embedder: the :class:`Embedder` behind :meth:`embed`.
        camera_names: cameras that the model knows apart; empty for a model of no camera.
        device: where it computes.
    """

    def __init__(self, bundle: Bundle, device: str | torch.device = "auto") -> None:
        self.device = pick_device(device)
        self.embedder = Embedder(bundle.model, bundle.input, self.device)
        self.model, self.input = self.embedder.model, bundle.input
        self.camera_names, self.about = tuple(bundle.camera_names), dict(bundle.about)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        height: int = 0,
        width: int = 0,
    ) -> ReID:
        """From a checkpoint file or the folder of `embae adapt`.

        Raises:
            FileNotFoundError, ValueError: see :func:`open_model`.
        """
        return cls(open_model(path, height, width), device)

    @property
    def feature_dim(self) -> int:
        """Width d of an embedding."""
        return self.model.feature_dim

    def embed(
        self,
        images: Any,
        cameras: Any = None,
        normalize: bool = True,
        tta: str = "flip",
        batch_size: int = 0,
        bgr: bool = False,
    ) -> Floats:
        """Embeddings of crops, in the order given. Safe to call from several threads.

        Args:
            images: one image or a sequence of N: file names, PIL images, numpy arrays uint8
                (H, W, 3) in R, G, B order (with ``bgr`` in OpenCV's), tensors (3, H, W), each of
                any size; or one array (N, H, W, 3) or tensor (N, 3, H, W). Tensors are uint8, or
                float in [0, 1], not normalised.
            cameras: which camera took each image, for a model adapted camera by camera: a name
                out of ``camera_names`` or its number, one for all or a sequence of N;
                ``"unknown"`` for a camera it has never seen. Left out, it means the same, and is
                warned of, because much of what adaptation gained is lost.
            normalize: scale embeddings to length 1, as distances are compared (paper 5.1).
            tta: ``flip`` averages an image and its mirror image, ``none`` takes half the time.
            batch_size: images at a time; 0 for 64 on a CPU, 256 on a GPU.
            bgr: numpy arrays are B, G, R, as OpenCV reads them.

        Returns:
            (N, d) float32 numpy array; N = 1 for one image.

        Raises:
            ValueError: an image of another shape, kind or range, an unknown camera.
            CorruptImageError: lists the files that cannot be decoded.
        """
        found = self.embed_tensor(images, cameras, normalize, tta, batch_size, bgr)
        return found.cpu().numpy()

    def embed_tensor(
        self,
        images: Any,
        cameras: Any = None,
        normalize: bool = True,
        tta: str = "flip",
        batch_size: int = 0,
        bgr: bool = False,
    ) -> torch.Tensor:
        """:meth:`embed` as a tensor (N, d) on the model's device."""
        return self.embedder.images(images, cameras, normalize, tta, batch_size, bgr)
