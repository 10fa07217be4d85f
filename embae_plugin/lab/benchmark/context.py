"""What every subject is given: sizes, a process of its own, and crops to read.

The crops are JPEG files of Market-1501's size, in its folders, under its names.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.lab.benchmark.machine import FreshProcess, Rates
from embae_plugin.progress import progress

DATASET = "market1501"
KINDS = 64  # different pictures; the files are as many as asked for
CAMERAS, TRAIN_PIDS, TEST_PIDS = 6, 751, 750
LEAST_PIDS = 18  # P of a batch of stage 1


def _jpeg(seed: int) -> bytes:
    """Blurred noise, compressed; 2 to 3 kB, as a crop of Market-1501 has."""
    noise = np.random.default_rng(seed).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_target(root: Path, train: int, query: int, gallery: int) -> None:
    """Writes so many images below ``root``, which torchreid reads as ``market1501``."""
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
        for number in progress(range(count), f"writing {name}"):
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


@dataclass(frozen=True)
class Sizes:
    """How large each subject's work is."""

    name: str
    repeats: int  # of every measurement, unless the command says otherwise
    query: int  # images in the ranking
    gallery: int
    dim: int
    large_galleries: tuple[int, ...]  # images in those that growth is measured on
    stock_query: int  # that torchreid is given with these: its matrices of all would not fit
    trunk: str
    height: int
    width: int
    train_steps: int  # timed steps of stage 1; one before them is not
    extract_images: int
    ae_steps: int  # timed steps of stages 2 and 3 with features cached
    trunk_steps: int  # and recomputed
    target: tuple[int, int, int]  # images in training, query and gallery (end to end)


FULL = Sizes("full", 3, 3368, 15_913, 128, (100_000, 500_000), 337, "mobilenetv1", 256, 128, 6,
             1200, 40, 4, (12_936, 3368, 15_913))
QUICK = Sizes("quick", 2, 128, 15_913, 128, (20_000, 100_000), 16, "mobilenetv1", 128, 64, 2,
              600, 8, 1, (500, 100, 500))


@dataclass
class Context:
    """The circumstances of one run of the command."""

    sizes: Sizes
    repeats: int  # of each measurement
    folder: Path  # a temporary one, for crops and checkpoints
    stock: FreshProcess  # in which torchreid runs as its users run it
    cython_dir: str = ""  # where torchreid's compiled evaluator lies; "": in torchreid
    rates: dict[str, Rates] = field(default_factory=dict)  # of each device, once measured

    def crops(self, train: int, query: int, gallery: int) -> Path:
        """A root with a dataset in Market-1501's layout of so many images; made once."""
        root = self.folder / f"crops-{train}-{query}-{gallery}"
        if not root.is_dir():
            write_target(root, train, query, gallery)
        return root
