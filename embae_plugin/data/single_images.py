"""Images of whatever kind a program holds, brought to a network's input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from embae_plugin.data.image_bank import PATHS, Pixels, decode, decode_all, resized
from embae_plugin.models.input_spec import InputSpec

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_items(images: Any) -> Sequence[Any]:
    """One image or many as a sequence of single images."""
    if isinstance(images, (*PATHS, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim == 3 or (images.ndim == 2 and isinstance(images, np.ndarray)):
            return [images]  # a grey one is refused later, with what to do
        if images.ndim != 4:
            raise ValueError(
                f"an image of shape {tuple(images.shape)}: arrays are (H, W, 3) or (N, H, W, 3), "
                "tensors (3, H, W) or (N, 3, H, W)"
            )
        return list(images)
    if not isinstance(images, Iterable):
        raise ValueError(_no_image(images))
    return images if isinstance(images, Sequence) else list(images)


def _no_image(item: Any) -> str:
    return (
        f"a {type(item).__name__} is no image: give file names, PIL images, numpy arrays "
        "(H, W, 3) or tensors (3, H, W)"
    )


def _pixels(item: Any, height: int, width: int, bgr: bool) -> Pixels:
    """One image of any kind as uint8 (height, width, 3)."""
    if isinstance(item, PATHS):
        return decode(str(item), height, width)
    if isinstance(item, torch.Tensor):
        check_image_tensor(item)
        values = _unit_range(item).permute(1, 2, 0).mul(255).round().clamp(0, 255)
        item = Image.fromarray(values.to(torch.uint8).cpu().numpy())
    elif isinstance(item, np.ndarray):
        _check_array(item)
        if item.shape[:2] == (height, width):
            return item[..., ::-1] if bgr else item
        item = Image.fromarray(np.ascontiguousarray(item[..., ::-1] if bgr else item))
    if not isinstance(item, Image.Image):
        raise ValueError(_no_image(item))
    if 0 in item.size:
        raise ValueError(f"an image of {item.size[0]} x {item.size[1]} pixels holds nothing")
    return resized(item, height, width)


def _check_array(item: NDArray[Any]) -> None:
    if item.ndim == 3 and item.shape[2] == 3 and item.dtype == np.uint8 and item.size:
        return
    kind = f"an array of {item.dtype} {item.shape}: an image is uint8 (H, W, 3), R, G, B"
    if not item.size:
        kind += "; this one holds nothing, as of a box outside the frame"
    elif item.dtype.kind == "f":
        kind += "; multiply values in [0, 1] by 255 and use .astype('uint8')"
    elif item.ndim == 2 or item.shape[-1] == 1:
        kind += "; repeat a grey one: np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)"
    elif item.ndim == 3 and item.shape[2] == 4:
        kind += "; leave the fourth channel out: image[..., :3]"
    raise ValueError(kind)


def decoded(block: Sequence[Any], spec: InputSpec, bgr: bool = False, first: int = 0) -> Pixels:
    """uint8 (B, H, W, 3) in R, G, B order; many files are decoded side by side.

    Args:
        block: B images; numpy arrays are in B, G, R order if ``bgr``.
        spec: what they are resized to.
        first: number of the first one among those that the caller has, for messages.

    Raises:
        CorruptImageError, ValueError: see :func:`decode_all`.
    """
    out = np.empty((len(block), spec.height, spec.width, 3), dtype=np.uint8)
    decode_all(out, block, lambda item: _pixels(item, *out.shape[1:3], bgr), first=first)
    return out


def check_image_tensor(image: torch.Tensor) -> None:
    """Refuses a tensor (3, H, W) that pixels cannot be read from.

    Raises:
        ValueError: another shape, another kind of numbers, or none in memory.
    """
    if image.layout != torch.strided or image.is_nested or image.device.type == "meta":
        raise ValueError("a sparse, nested or meta tensor: an image is dense")
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"a tensor of shape {tuple(image.shape)}: an image is (3, H, W)")
    if image.dtype not in _DTYPES:
        raise ValueError(f"a tensor of {image.dtype}: an image is uint8, or float in [0, 1]")


def _unit_range(images: torch.Tensor) -> torch.Tensor:
    """Tensor images as float in [0, 1]."""
    if images.dtype == torch.uint8:
        return images.float().div(255)
    low, high = (float(value) for value in images.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"a float tensor with values from {low:.3g} to {high:.3g}: images are in [0, 1] and "
            "not normalised (uint8 is taken too)"
        )
    return images.float()


def tensor_batch(
    images: Sequence[torch.Tensor], spec: InputSpec, device: torch.device | str = "cpu",
    first: int = 0,
) -> torch.Tensor:
    """Normalised float (B, 3, height, width) on ``device`` from single tensor images.

    They are resized antialiased bilinear like Pillow's, but not rounded to whole grey levels.

    Args:
        first: number of the first one among those that the caller has, for messages.

    Raises:
        ValueError: see :func:`check_image_tensor`; also values out of range.
    """
    size = (spec.height, spec.width)

    def scaled(batch: torch.Tensor) -> torch.Tensor:
        batch = _unit_range(batch)
        if batch.shape[2:] == size:
            return batch
        return F.interpolate(batch, size, mode="bilinear", antialias=True)

    try:
        for image in images:
            check_image_tensor(image)
        alike = len({(image.shape, image.dtype, image.device) for image in images}) == 1
        batches = [torch.stack(list(images))] if alike else [image[None] for image in images]
        pixels = torch.cat([scaled(batch.to(device)) for batch in batches])
    except ValueError:
        for number, image in enumerate(images, first):  # which one it is costs time only now
            try:
                check_image_tensor(image)
                _unit_range(image)
            except ValueError as error:
                raise ValueError(f"image {number} (counted from 0): {error}") from None
        raise
    mean, std = pixels.new_tensor(spec.norm_mean), pixels.new_tensor(spec.norm_std)
    return (pixels - mean[:, None, None]) / std[:, None, None]
