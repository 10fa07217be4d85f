"""Crops to read: JPEG files of Market-1501's size, in its folders, under its names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.records import ImageRecords, ReIDData

DATASET = "market1501"
SIZE = (64, 128)  # width and height of Market-1501's crops
KINDS = 64  # different pictures; the files are as many as asked for
CAMERAS, TRAIN_PIDS, TEST_PIDS = 6, 751, 750
LEAST_PIDS = 18  # P of a batch of stage 1


def _jpeg(seed: int) -> bytes:
    """Blurred noise, compressed; 2 to 3 kB, as a crop of Market-1501 has."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_target(root: Path, train: int, query: int, gallery: int) -> None:
    """Writes a dataset that torchreid reads as ``market1501`` below ``root``.

    Args:
        root: becomes the folder of datasets.
        train, query, gallery: how many images.
    """
    pictures = [_jpeg(seed) for seed in range(KINDS)]
    # as many images of a person as Market-1501 has
    people = min(TRAIN_PIDS, max(LEAST_PIDS, train // 17))
    test_people = min(TEST_PIDS, max(1, gallery // 21))
    for name, count, first_pid, number_of_people in (
        ("bounding_box_train", train, 1, people),
        ("query", query, TRAIN_PIDS, test_people),
        ("bounding_box_test", gallery, TRAIN_PIDS, test_people),
    ):
        folder = root / "market1501" / "Market-1501-v15.09.15" / name
        folder.mkdir(parents=True)
        for number in tqdm(range(count), desc=f"writing {name}", disable=None, leave=False):
            # people go round first, then cameras: all have equally many images
            rest, person = divmod(number, number_of_people)
            shot, camera = divmod(rest, CAMERAS)
            crop = folder / f"{first_pid + person:04d}_c{camera + 1}s1_{shot:06d}_00.jpg"
            crop.write_bytes(pictures[number % KINDS])


def read_records(root: Path, split: str) -> ImageRecords:
    """The crops below ``root`` as this package lists them."""
    return ImageRecords.from_items(bridge.dataset_split(DATASET, root, split))


def read_data(root: Path) -> ReIDData:
    """The crops as source and, without identities, as target, with its query and gallery."""
    train = read_records(root, "train")
    return ReIDData(
        sources=["source"], source=train, target="target", target_train=train.unlabelled(),
        query=read_records(root, "query"), gallery=read_records(root, "gallery"),
    )
