"""Embeddings of person crops in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from embae_plugin.data.augment import normalise
from embae_plugin.data.single_images import as_items, decoded, tensor_batch
from embae_plugin.models.bundle import Bundle, InputSpec, load_bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.folded import FoldedTrunk
from embae_plugin.models.inference import inference_format
from embae_plugin.precision import full_precision

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
    """A person re-identification model ready for use.

    >>> reid = ReID.load("adapted/")                      # doctest: +SKIP
    >>> reid.embed("crop.jpg").shape                      # one image: still two dimensions
    (1, 128)
    >>> reid.embed(["a.jpg", pil_image, array]).shape     # many, of any sizes and kinds
    (3, 128)
    >>> distance = np.linalg.norm(e[0] - e[1])            # smaller: likelier the same person

    Args:
        bundle: a model with its input, see :func:`load_bundle`.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.

    Attributes:
        model: the network, in eval mode, on ``device``.
        input: the :class:`InputSpec` that images are brought to.
        camera_names: cameras that the model knows apart; empty for a model of no camera.
        device: where it computes.
    """

    def __init__(self, bundle: Bundle, device: str | torch.device = "auto") -> None:
        self.device = pick_device(device)
        self._order = inference_format(self.device)
        self.model = bundle.model.to(self.device).to(memory_format=self._order).eval()
        self._trunk = FoldedTrunk()
        self.input: InputSpec = bundle.input
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
            FileNotFoundError, ValueError: see :func:`load_bundle`.
        """
        return cls(load_bundle(path, height, width), device)

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
    ) -> Floats:
        """Embeddings of crops, in the order given.

        Args:
            images: one image or a sequence of N: file names, PIL images, numpy arrays uint8
                (H, W, 3) in R, G, B order (OpenCV's are B, G, R: ``array[..., ::-1]``), tensors
                (3, H, W), each of any size; or one array (N, H, W, 3) or tensor (N, 3, H, W).
                Tensors are uint8, or float in [0, 1], not normalised.
            cameras: which camera took each image, for a model adapted camera by camera: a name
                out of ``camera_names`` or its number, one for all or a sequence of N; None (or
                −1) for a camera it has never seen.
            normalize: scale embeddings to length 1, as distances are compared (paper 5.1).
            tta: ``flip`` averages an image and its mirror image, ``none`` takes half the time.
            batch_size: images at a time; 0 for 64 on a CPU, 256 on a GPU.

        Returns:
            (N, d) float32 numpy array; N = 1 for one image.

        Raises:
            ValueError: an image of another shape, kind or range, an unknown camera.
            CorruptImageError: lists the files that cannot be decoded.
        """
        return self.embed_tensor(images, cameras, normalize, tta, batch_size).cpu().numpy()

    @torch.inference_mode()
    def embed_tensor(
        self,
        images: Any,
        cameras: Any = None,
        normalize: bool = True,
        tta: str = "flip",
        batch_size: int = 0,
    ) -> torch.Tensor:
        """:meth:`embed` as a tensor (N, d) on the model's device."""
        if tta not in TTA:
            raise ValueError(f"tta {tta!r}: must be one of {', '.join(TTA)}")
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 0:
            raise ValueError(f"batch_size {batch_size!r}: a whole number, 0 for the device's own")
        items = as_items(images)
        camids = self.camera_numbers(cameras, len(items))
        step = batch_size or (256 if self.device.type == "cuda" else 64)
        done, parts = 0, [torch.zeros(0, self.feature_dim, device=self.device)]
        for batch in self._batches(items, step):
            of = None if camids is None else camids[done : done + len(batch)].to(self.device)
            parts.append(self.embed_batch(batch, of, normalize, tta))
            done += len(batch)
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_batch(
        self,
        batch: torch.Tensor,
        camids: torch.Tensor | None = None,
        normalize: bool = True,
        tta: str = "flip",
    ) -> torch.Tensor:
        """Embeddings (B, d) of images (B, 3, H, W) that are resized and normalised already."""
        z = self._forward(batch, camids)
        if tta == "flip":
            z = (z + self._forward(batch.flip(3), camids)) / 2
        return F.normalize(z, dim=1) if normalize else z

    def camera_numbers(self, cameras: Any, count: int) -> torch.Tensor | None:
        """``cameras`` of :meth:`embed` as (count,) numbers of the model, or None for none.

        Raises:
            ValueError: a name or number that the model does not know, or another count.
        """
        if cameras is None:
            return None
        single = isinstance(cameras, (str, bytes, Number)) or getattr(cameras, "ndim", 1) == 0
        ordered = isinstance(cameras, Iterable) and not isinstance(cameras, (Set, Mapping))
        if not single and not ordered:
            raise ValueError(f"cameras are a {type(cameras).__name__}: give one name or number for "
                             "all images, or a list of them in the images' order")  # fmt: skip
        cameras = [cameras] * count if single else list(cameras)
        if len(cameras) != count:
            raise ValueError(f"{len(cameras)} cameras for {count} images")
        table: dict[Any, int] = {name: n for n, name in enumerate(self.camera_names)}
        table.update({n: n for n in range(len(self.camera_names))})
        table.update({None: -1, -1: -1})
        keys = [_camera_key(camera) for camera in cameras]
        pairs = zip(cameras, keys, strict=True)
        unknown = sorted({repr(camera) for camera, key in pairs if key not in table})
        if unknown:
            known = ", ".join(self.camera_names) or "it knows none"
            raise ValueError(
                f"the model does not know camera {', '.join(unknown[:5])} (known: {known}); give "
                "None for a camera that it has not been adapted to"
            )
        return torch.tensor([table[key] for key in keys], dtype=torch.long)

    def _forward(self, batch: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor:
        batch = batch.contiguous(memory_format=self._order)
        with full_precision(self.device):
            if camids is not None and isinstance(self.model, EmbAE):
                camids = self.model.known_cameras(camids)
            h = self._trunk.features(self.model.trunk, batch, camids)
            return self.model.embed_features(h, camids).float()

    def _batches(self, items: Sequence[Any], step: int) -> Iterator[torch.Tensor]:
        """Normalised float32 (B, 3, H, W) on the device, ``step`` images at a time."""
        spec = self.input
        short = True if len(items) < _LONG else None  # a bar only where one waits
        starts = range(0, len(items), step)
        for start in tqdm(starts, desc="embed", unit="batch", disable=short):
            block = items[start : start + step]
            if all(isinstance(item, torch.Tensor) for item in block):
                yield tensor_batch(block, spec, self.device)
            else:
                pixels = torch.from_numpy(decoded(block, spec)).to(self.device)
                yield normalise(pixels, spec.norm_mean, spec.norm_std)


def _camera_key(camera: Any) -> Any:
    """A camera as a name, a whole number or None; what is none of them as something unknown."""
    if camera is None or isinstance(camera, str):
        return camera
    try:
        number = int(camera)
        return number if bool(number == camera) else (repr(camera),)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return (repr(camera),)
