"""Crops to read: JPEG files of Market-1501's size, in its folders, under its names."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

logger = logging.getLogger(__name__)

SIZE = (64, 128)  # width and height of Market-1501's crops
KINDS = 64  # different pictures; the files are as many as asked for
CAMERAS, TRAIN_PIDS, TEST_PIDS = 6, 751, 750
LEAST_PIDS = 18  # P of a batch of stage 1


def jpeg(seed: int) -> bytes:
    """Blurred noise, compressed; 2 to 3 kB, as a crop of Market-1501 has."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _name(number: int, first_pid: int, people: int) -> str:
    """People go round first, then cameras: all have equally many images."""
    rest, person = divmod(number, people)
    shot, camera = divmod(rest, CAMERAS)
    return f"{first_pid + person:04d}_c{camera + 1}s1_{shot:06d}_00.jpg"


def write_target(root: Path, train: int, query: int, gallery: int) -> None:
    """Writes a dataset that torchreid reads as ``market1501`` below ``root``.

    Args:
        root: becomes the folder of datasets.
        train, query, gallery: how many images.
    """
    pictures = [jpeg(seed) for seed in range(KINDS)]
    # as many images of a person as Market-1501 has
    people = min(TRAIN_PIDS, max(LEAST_PIDS, train // 17))
    test_people = min(TEST_PIDS, max(1, gallery // 21))
    parts = [
        ("bounding_box_train", train, 1, people),
        ("query", query, TRAIN_PIDS, test_people),
        ("bounding_box_test", gallery, TRAIN_PIDS, test_people),
    ]
    base = root / "market1501" / "Market-1501-v15.09.15"
    with tqdm(total=train + query + gallery, desc="writing crops", unit="img", disable=None,
              leave=False) as bar:  # fmt: skip
        for folder, count, first_pid, number_of_people in parts:
            (base / folder).mkdir(parents=True)
            for number in range(count):
                name = _name(number, first_pid, number_of_people)
                (base / folder / name).write_bytes(pictures[number % KINDS])
            bar.update(count)
    logger.debug("%d crops of %d different pictures under %s", train + query + gallery, KINDS, base)
