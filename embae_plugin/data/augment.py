"""torchreid's training transforms, done on whole uint8 batches on the device.

Flip, random crop (torchreid's ``Random2DTranslation``) and random erasing (Zhong et al., 2017)
are the ones that need no decoded PIL image. A run that asks for others uses torchreid's loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

ON_DEVICE = ("random_flip", "random_crop", "random_erase")


def unsupported_transforms(transforms: Sequence[str]) -> list[str]:
    """Those of torchreid's transforms that only its own loader can do."""
    return [name for name in transforms if name.lower() not in ON_DEVICE]


def normalise(
    images: torch.Tensor, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in channels_last memory.

    The arithmetic and its order are those of torchvision's ``ToTensor`` and ``Normalize``, so the
    result is equal to theirs bit for bit.
    """
    mean, std = (torch.as_tensor(three, dtype=torch.float32, device=images.device)
                 for three in (mean, std))
    return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


def flip(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Mirrors those images (B, H, W, 3) left to right for which ``which`` (B,) is true."""
    return torch.where(which[:, None, None, None], images.flip(2), images)


def random_crop(
    images: torch.Tensor, generator: torch.Generator, probability: float = 0.5
) -> torch.Tensor:
    """Enlarges images by 1/8 and cuts a random window of the old size, with a probability.

    Of uint8 images (B, H, W, 3). The law is torchreid's; the bilinear enlargement is done in
    float and rounded once.
    """
    count, height, width, _ = images.shape
    chosen = (torch.rand(count, generator=generator) <= probability).nonzero().flatten()
    tall, wide = round(height * 1.125), round(width * 1.125)
    top = torch.randint(0, tall - height + 1, (len(chosen),), generator=generator)
    left = torch.randint(0, wide - width + 1, (len(chosen),), generator=generator)
    if not len(chosen):
        return images
    device = images.device
    chosen, top, left = chosen.to(device), top.to(device), left.to(device)
    large = F.interpolate(
        images[chosen].permute(0, 3, 1, 2).float(), (tall, wide), mode="bilinear"
    ).permute(0, 2, 3, 1)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    batch = torch.arange(len(chosen), device=device)
    window = large[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
    out = images.clone()
    out[chosen] = window.round().clamp(0, 255).to(torch.uint8)
    return out


def random_erase(
    images: torch.Tensor, fill: Sequence[float], generator: torch.Generator,
    probability: float = 0.5,
) -> torch.Tensor:
    """Overwrites one rectangle of a normalised image (B, 3, H, W), with a probability.

    Area 2 to 40 % of the image, aspect ratio 0.3 to 1/0.3, filled with ``fill``, torchreid's
    values. A rectangle that would not fit is cut to one pixel less than the image instead of being
    drawn again.
    """
    count, _, height, width = images.shape
    chosen = torch.rand(count, generator=generator) <= probability
    area = (torch.rand(count, generator=generator) * (0.4 - 0.02) + 0.02) * height * width
    ratio = torch.rand(count, generator=generator) * (1 / 0.3 - 0.3) + 0.3
    tall = (area * ratio).sqrt().round().clamp(1, height - 1)
    wide = (area / ratio).sqrt().round().clamp(1, width - 1)
    top = (torch.rand(count, generator=generator) * (height - tall + 1)).floor()
    left = (torch.rand(count, generator=generator) * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    mask = chosen[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    value = torch.tensor(fill, dtype=images.dtype, device=images.device)[:, None, None]
    return torch.where(mask[:, None].to(images.device), value, images)


@dataclass(frozen=True)
class Augmentation:
    """The random part of training: which transforms, and what an image is normalised by."""

    transforms: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = unsupported_transforms(self.transforms)
        if wrong:
            raise ValueError(
                f"transforms {', '.join(wrong)} cannot be done on the device; those that can: "
                f"{', '.join(ON_DEVICE)}"
            )

    def coin(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Which of ``count`` images are mirrored, (count,) bool; none without random_flip."""
        if "random_flip" not in self.transforms:
            return torch.zeros(count, dtype=torch.bool)
        return torch.rand(count, generator=generator) < 0.5

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 (B, H, W, 3) to a normalised float32 (B, 3, H, W), channels_last."""
        if "random_flip" in self.transforms:
            images = flip(images, self.coin(len(images), generator).to(images.device))
        if "random_crop" in self.transforms:
            images = random_crop(images, generator)
        batch = normalise(images, self.mean, self.std)
        if "random_erase" in self.transforms:
            batch = random_erase(batch, self.mean, generator)
        return batch
