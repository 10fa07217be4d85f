"""Embeddings of person crops in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from embae_plugin.data.augment import normalise
from embae_plugin.data.single_images import as_items, decoded, tensor_batch
from embae_plugin.embedder import SHOWN, UNKNOWN
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.door import open_model
from embae_plugin.models.inference import FrozenTrunks, inference_format
from embae_plugin.models.weight_files import few
from embae_plugin.precision import full_precision
from embae_plugin.progress import progress

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
TTA = ("none", "flip")
_LONG = 2000  # images that take some seconds on a CPU


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
    """A person re-identification model ready for use, safe to call from several threads.

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
        camera_names: cameras that the model knows apart; empty for a model of no camera.
        device: where it computes.
    """

    def __init__(self, bundle: Bundle, device: str | torch.device = "auto") -> None:
        self.device, self.input = pick_device(device), bundle.input
        order = inference_format(self.device)
        self.model = bundle.model.to(self.device).to(memory_format=order).eval()
        self.camera_names, self.about = tuple(bundle.camera_names), dict(bundle.about)
        self._trunks, self._warned = FrozenTrunks(), False

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "auto", height: int = 0, width: int = 0
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
        self, images: Any, cameras: Any = None, normalize: bool = True, tta: str = "flip",
        batch_size: int = 0, bgr: bool = False,
    ) -> Floats:
        """Embeddings of crops, in the order given.

        Args:
            images: one image or a sequence of N: file names, PIL images, numpy arrays uint8
                (H, W, 3) in R, G, B order (with ``bgr`` in OpenCV's), tensors (3, H, W), each of
                any size; or one array (N, H, W, 3) or tensor (N, 3, H, W). Tensors are uint8, or
                float in [0, 1], not normalised.
            cameras: which camera took each image, for a model adapted camera by camera: a name
                out of ``camera_names`` or its number, one for all or a sequence of N;
                ``"unknown"`` for a camera it has never seen. Left out, it means the same, and is
                warned of: the model guesses which camera each crop looks like, or, if it cannot,
                takes what all have in common, by which much of what adaptation gained is lost.
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

    @torch.inference_mode()
    def embed_tensor(
        self, images: Any, cameras: Any = None, normalize: bool = True, tta: str = "flip",
        batch_size: int = 0, bgr: bool = False,
    ) -> torch.Tensor:
        """:meth:`embed` as a tensor (N, d) on the model's device."""
        if tta not in TTA:
            raise ValueError(f"tta {tta!r}: must be one of {', '.join(TTA)}")
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 0:
            raise ValueError(f"batch_size {batch_size!r}: a whole number, 0 for the device's own")
        items, spec = as_items(images), self.input
        camids = self.camera_numbers(cameras, len(items))
        step = int(batch_size) or (256 if self.device.type == "cuda" else 64)
        parts = [torch.zeros(0, self.feature_dim, device=self.device)]
        starts: Iterable[int] = range(0, len(items), step)
        if len(items) >= _LONG:  # only where one waits; all threads share a lock for bars
            starts = progress(starts, "embed", unit="batch")
        for start in starts:
            block = items[start : start + step]
            if all(isinstance(item, torch.Tensor) for item in block):
                batch = tensor_batch(block, spec, self.device, start)
            else:
                pixels = torch.from_numpy(decoded(block, spec, bgr, start)).to(self.device)
                batch = normalise(pixels, spec.norm_mean, spec.norm_std)
            of = None if camids is None else camids[start : start + step]
            parts.append(self.embed_batch(batch, of, normalize, tta))
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_batch(
        self, batch: torch.Tensor, camids: torch.Tensor | None, normalize: bool, tta: str
    ) -> torch.Tensor:
        """Embeddings (B, d) of images (B, 3, H, W) that are resized and normalised already.

        Args:
            camids: (B,) numbers of :meth:`camera_numbers`; None for cameras never seen.
            normalize, tta: see :meth:`embed`.
        """
        if not len(batch):  # as of a frame without people, which not every network takes
            return torch.zeros(0, self.feature_dim, device=self.device)
        camids = self.model.cameras_of(batch, None if camids is None else camids.to(self.device))
        z = self._forward(batch, camids)
        if tta == "flip":
            z = (z + self._forward(batch.flip(3), camids)) / 2
        return F.normalize(z, dim=1) if normalize else z

    def _forward(self, batch: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor:
        with full_precision(self.device):
            h = self._trunks.features(self.model.trunk, batch, camids)
            return self.model.embed_features(h, camids).float()

    def camera_numbers(self, cameras: Any, count: int) -> torch.Tensor | None:
        """The model's numbers of cameras, (count,), or None for a model that knows no cameras.

        Args:
            cameras: a name, or a camera number of the model, for all images or in a sequence of
                ``count``; ``"unknown"`` (or None or −1 in a sequence) for a camera that the model
                has never seen. None alone means the same, with a warning: the first time only.

        Raises:
            ValueError: a name or number that the model does not know, or another count.
        """
        names = self.model.camera_names
        if cameras is None:
            if names and not self._warned:
                self._warned = True
                logger.warning(
                    "this model was adapted to the cameras %s and is not told which of them took "
                    "these images, so %s: name the camera (cameras= or camera= in Python), or say "
                    "%r for another one", few(names, SHOWN),
                    "it guesses from how each one looks, which costs a little"
                    if self.model.guess is not None else "much of what it gained is lost", UNKNOWN,
                )
            return None
        if isinstance(cameras, (str, bytes, Number)) or getattr(cameras, "ndim", 1) == 0:
            cameras = [cameras] * count
        elif not isinstance(cameras, Iterable) or isinstance(cameras, (Set, Mapping)):
            raise ValueError(f"cameras are a {type(cameras).__name__}: give one name or number for "
                             "all images, or a list of them in the images' order")
        cameras = list(cameras)
        if len(cameras) != count:
            raise ValueError(f"{len(cameras)} cameras for {count} images")
        table: dict[Any, int] = {None: -1, -1: -1, UNKNOWN: -1}
        for number, name in enumerate(names):
            table[number] = table[name] = number
        numbers = [_looked_up(table, camera) for camera in cameras]
        if None in numbers:
            unknown = (c for c, number in zip(cameras, numbers, strict=True) if number is None)
            said = few(sorted({" ".join(repr(camera).split())[:60] for camera in unknown}), SHOWN)
            raise ValueError(
                f"the model does not know camera {said} (known: {few(names, SHOWN)}); give "
                f"{UNKNOWN!r} for a camera that it has not been adapted to"
                if names
                else f"camera {said}: this model knows no cameras, and embeds all alike; leave "
                "the camera out"
            )
        return torch.tensor(numbers, dtype=torch.long) if names else None


def _looked_up(table: dict[Any, int], camera: Any) -> int | None:
    """A camera's number, by its name or by a number of any library; None if it has none."""
    try:
        return table.get(camera.tolist() if hasattr(camera, "tolist") else camera)
    except (TypeError, ValueError, RuntimeError):  # nothing that could be a key
        return None
