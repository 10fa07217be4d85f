"""The bank's pixels are those of torchreid's loader, wherever they are kept."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image
from torchvision.transforms import functional as tvf

from embae_plugin.data import image_bank
from embae_plugin.data.augment import flip, normalise
from embae_plugin.data.image_bank import ImageBank, content_key

HEIGHT, WIDTH = 32, 16
# torchreid's own reading and test transform, the oracle of this file
read_image = torchreid.utils.read_image
build_transforms = torchreid.data.transforms.build_transforms
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """JPEG and PNG crops: larger, smaller, of the very size, of odd sizes, flat."""
    sizes = [(128, 64), (20, 9), (HEIGHT, WIDTH), (33, 15), (1, 1), (7, 90), (HEIGHT, 31)]
    names = []
    for number, (height, width) in enumerate(sizes):
        for ending in ("jpg", "png"):
            names.append(str(tmp_path / f"crops{number}.{ending}"))
            Image.fromarray(noise(height, width, seed=number)).save(names[-1])
    return names


@pytest.fixture
def torchreids(paths) -> torch.Tensor:
    """What torchreid's loader hands to the network, (N, 3, H, W)."""
    _, transform = build_transforms(HEIGHT, WIDTH, "random_flip", MEAN, STD)
    return torch.stack([transform(read_image(path)) for path in paths])


def test_pixels_are_torchreids_bit_for_bit(paths, torchreids):
    bank = ImageBank(paths, HEIGHT, WIDTH)
    assert bank.place == "memory" and bank.images.dtype == torch.uint8
    assert bank.images.shape == (len(paths), HEIGHT, WIDTH, 3) and len(bank) == len(paths)
    assert torch.equal(normalise(bank.images, MEAN, STD), torchreids)


def test_mirrored_pixels_are_torchreids_bit_for_bit(paths):
    bank = ImageBank(paths, HEIGHT, WIDTH)
    # RandomHorizontalFlip mirrors the decoded picture; so does the bank's batch
    mirrored = torch.stack(
        [
            tvf.normalize(
                tvf.to_tensor(tvf.hflip(tvf.resize(read_image(path), [HEIGHT, WIDTH]))), MEAN, STD
            )
            for path in paths
        ]
    )
    both = flip(bank.batch(torch.arange(len(paths))), torch.ones(len(paths), dtype=torch.bool))
    assert torch.equal(normalise(both, MEAN, STD), mirrored)


def test_batches_and_blocks_are_the_images_asked_for(paths):
    bank = ImageBank(paths, HEIGHT, WIDTH)
    index = torch.tensor([3, 0, 3])
    assert torch.equal(bank.batch(index), bank.images[[3, 0, 3]])
    blocks = [bank.batch(part) for part in torch.split(torch.arange(len(bank)), 4)]
    assert [len(block) for block in blocks] == [4, 4, 4, 2]
    assert torch.equal(torch.cat(blocks), bank.images)


# --- where they are kept --------------------------------------------------------------------


def refuse_to_decode(*_: object) -> None:
    raise AssertionError("an image was decoded")


def test_memory_file_and_cache_give_the_same_bytes(paths, tmp_path, monkeypatch, caplog):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(image_bank.tempfile, "tempdir", str(tmp_path / "scratch"))
    memory = ImageBank(paths, HEIGHT, WIDTH)
    spilled = ImageBank(paths, HEIGHT, WIDTH, memory_share=1e-12)
    cached = ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path / "cache")
    assert [bank.place for bank in (memory, spilled, cached)] == ["memory", "file", "file"]
    assert torch.equal(memory.images, spilled.images) and torch.equal(memory.images, cached.images)
    assert "do not fit in memory" in caplog.text and "embae.cache_dir" in caplog.text
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_a_second_run_decodes_nothing(paths, tmp_path, monkeypatch):
    first = ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(image_bank, "decode", refuse_to_decode)
    second = ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path / "cache")
    assert torch.equal(first.images, second.images)
    with pytest.raises(AssertionError, match="decoded"):  # the patch does bite
        ImageBank(paths, HEIGHT, WIDTH)


def test_the_key_follows_content_order_and_size_and_nothing_else(paths, tmp_path):
    key = content_key(paths, HEIGHT, WIDTH)
    assert content_key(paths[::-1], HEIGHT, WIDTH) != key
    assert content_key(paths, HEIGHT, WIDTH + 1) != key
    moved = [str(tmp_path / f"moved{n}") for n in range(len(paths))]
    for old, new in zip(paths, moved, strict=True):
        Path(new).write_bytes(Path(old).read_bytes())
    assert content_key(moved, HEIGHT, WIDTH) == key


def test_changed_content_is_decoded_again(paths, tmp_path):
    folder = tmp_path / "cache"
    before = ImageBank(paths, HEIGHT, WIDTH, cache_dir=folder)
    Image.fromarray(noise(40, 20, seed=99)).save(paths[1])
    after = ImageBank(paths, HEIGHT, WIDTH, cache_dir=folder)
    assert len(list(folder.iterdir())) == 2
    assert not torch.equal(before.images[1], after.images[1])
    assert torch.equal(before.images[2:], after.images[2:])


def test_a_cache_file_that_was_cut_short_is_made_again(paths, tmp_path):
    folder = tmp_path / "cache"
    whole = ImageBank(paths, HEIGHT, WIDTH, cache_dir=folder).images.clone()
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert torch.equal(ImageBank(paths, HEIGHT, WIDTH, cache_dir=folder).images, whole)
    assert kept.stat().st_size == whole.numel()


def test_the_cache_file_is_as_readable_as_other_new_files(paths, tmp_path):
    ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    (tmp_path / "ordinary").touch()
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_writing_to_the_tensor_leaves_the_cache_alone(paths, tmp_path):
    bank = ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path)
    whole = bank.images.clone()
    bank.images.zero_()
    assert torch.equal(ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path).images, whole)


def test_a_full_disk_is_told_and_leaves_nothing_behind(paths, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    open_before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(OSError, match=r"decoded images in .*No space left.*embae\.cache_dir"):
        ImageBank(paths, HEIGHT, WIDTH, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    if open_before:
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_no_images_at_all():
    with pytest.raises(ValueError, match="query: there are no images to read"):
        ImageBank([], HEIGHT, WIDTH, label="query")
