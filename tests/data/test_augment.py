"""Flips, crops and erasures on whole batches, against PIL and torchvision."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image
from torchvision.transforms import functional as tvf

from embae_plugin.data.augment import (
    ON_DEVICE,
    Augmentation,
    flip,
    normalise,
    random_crop,
    random_erase,
    unsupported_transforms,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEIGHT, WIDTH = 32, 16


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_normalise_is_torchvisions_bit_for_bit():
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    batch = torch.cat([images(3)[:, :16], every_value])
    pictures = [tvf.to_tensor(image.numpy()) for image in batch]
    theirs = torch.stack([tvf.normalize(picture, MEAN, STD) for picture in pictures])
    ours = normalise(batch, MEAN, STD)
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last) and ours.dtype == torch.float32


def test_flip_mirrors_the_chosen_images_left_to_right():
    batch = images(3)
    out = flip(batch, torch.tensor([True, False, True]))
    for number, mirrored in enumerate((True, False, True)):
        picture = Image.fromarray(batch[number].numpy())
        wanted = tvf.hflip(picture) if mirrored else picture
        assert np.array_equal(out[number].numpy(), np.asarray(wanted))


def enlarged(batch: torch.Tensor) -> np.ndarray:
    """What torchreid's Random2DTranslation cuts its window from."""
    size = (round(WIDTH * 1.125), round(HEIGHT * 1.125))
    return np.stack(
        [
            np.asarray(Image.fromarray(image.numpy()).resize(size, Image.Resampling.BILINEAR))
            for image in batch
        ]
    ).astype(int)


def test_each_crop_is_a_window_of_the_enlarged_image():
    batch = images(40)
    large = enlarged(batch)
    assert large.shape == (40, 36, 18, 3)
    out = random_crop(batch, seed(1), probability=1.0).numpy().astype(int)
    found = []
    for number in range(40):
        distance = {
            (top, left): np.abs(
                large[number, top : top + HEIGHT, left : left + WIDTH] - out[number]
            ).max()
            for top in range(5)
            for left in range(3)
        }
        place = min(distance, key=distance.get)
        assert distance[place] <= 1  # Pillow rounds twice, the batch once
        found.append(place)
    # every row and column offset comes up, the last ones included
    assert {top for top, _ in found} == set(range(5)) and {left for _, left in found} == {0, 1, 2}


def test_about_half_of_the_images_are_cropped_and_the_others_untouched():
    batch = images(400)
    out = random_crop(batch, seed(2))
    share = (out != batch).flatten(1).any(1).float().mean()
    assert 0.4 < share < 0.6
    assert random_crop(batch, seed(2), probability=-1.0) is batch


def rectangle(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what is set in an (H, W) mask."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return (int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1,
            int(columns[-1] - columns[0]) + 1)


def test_erasing_fills_one_rectangle_of_lawful_area_and_shape():
    fill = (7.0, 8.0, 9.0)
    batch = torch.zeros(600, 3, 64, 32)
    out = random_erase(batch, fill, seed(3), probability=1.0)
    changed = out[:, 0] != 0
    edges = set()
    for image, mask in zip(out, changed, strict=True):
        top, left, height, width = rectangle(mask)
        assert int(mask.sum()) == height * width  # one whole rectangle
        assert torch.equal(image[:, mask], torch.tensor(fill)[:, None].expand(-1, height * width))
        assert height <= 63 and width <= 31
        slack = (height + width) / 2 + 1  # each side is rounded by half a pixel at most
        assert 0.02 * 64 * 32 - slack <= height * width <= 0.4 * 64 * 32 + slack
        edges |= {("top", top == 0), ("left", left == 0), ("bottom", top + height == 64),
                  ("right", left + width == 32)}
    # every edge is reached by some rectangle, and missed by some
    assert len(edges) == 8


def test_erased_areas_follow_torchreids_law(monkeypatch):
    monkeypatch.setattr(torchreid.data.transforms, "random", random.Random(0))
    theirs = torchreid.data.transforms.RandomErasing(probability=1.0, mean=[1.0, 1.0, 1.0])
    area = [theirs(torch.zeros(3, 64, 64)).mean().item() for _ in range(1500)]
    ours = random_erase(torch.zeros(1500, 3, 64, 64), (1.0, 1.0, 1.0), seed(4), 1.0)
    mine = ours.mean((1, 2, 3))
    # cut instead of drawn again: a little smaller on average; 0.012 is four standard errors
    assert mine.mean().item() == pytest.approx(np.mean(area), abs=0.012)
    assert mine.std().item() == pytest.approx(np.std(area), abs=0.012)


def test_about_half_of_the_images_are_erased():
    out = random_erase(torch.zeros(500, 3, 16, 8), (1.0, 1.0, 1.0), seed(5))
    assert 0.42 < out.flatten(1).any(1).float().mean() < 0.58


def test_a_training_batch_is_flipped_by_the_coin_and_normalised():
    augment = Augmentation(("random_flip",), MEAN, STD)
    batch = images(32)
    coin = augment.coin(32, seed(6))
    assert 0 < int(coin.sum()) < 32
    wanted = normalise(flip(batch, coin), MEAN, STD)
    assert torch.equal(augment(batch, seed(6)), wanted)


def test_without_transforms_nothing_is_random():
    augment = Augmentation((), MEAN, STD)
    batch = images(4)
    assert torch.equal(augment(batch, seed(1)), normalise(batch, MEAN, STD))
    assert not augment.coin(100, seed(1)).any()


@pytest.mark.parametrize("names", [*((name,) for name in ON_DEVICE), ON_DEVICE])
def test_the_generator_alone_decides(names):
    augment = Augmentation(names, MEAN, STD)
    batch = images(16)
    before = batch.clone()
    torch.manual_seed(0)
    first = augment(batch, seed(7))
    torch.manual_seed(99)
    assert torch.equal(first, augment(batch, seed(7)))
    assert not torch.equal(first, augment(batch, seed(8)))
    assert torch.equal(batch, before)  # the bank's images are not written to


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    Augmentation(ON_DEVICE, MEAN, STD)(images(8), seed(1))
    assert torch.equal(torch.rand(1), wanted)


def test_what_cannot_be_done_on_the_device_is_named():
    names = ["Random_Flip", "color_jitter", "random_crop"]
    assert unsupported_transforms(names) == ["color_jitter"]
    with pytest.raises(ValueError, match=r"transforms color_jitter, random_patch cannot be done"):
        Augmentation(("random_flip", "color_jitter", "random_patch"), MEAN, STD)
