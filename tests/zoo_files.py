"""Writes tiny stand-ins for folders of torchreid's dataset zoo: noise images, right names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (8, 16), seed: int = 0) -> None:
    """A noise image of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_market1501(
    root: Path,
    train_ids: int = 4,
    test_ids: int = 3,
    cameras: int = 2,
    shots: int = 2,
    size: tuple[int, int] = (8, 16),
) -> Path:
    """Market-1501's layout: each identity has ``shots`` images in each camera.

    Test identities have one query image in each camera. Returns the dataset's folder.
    """
    folder = root / "market1501" / "Market-1501-v15.09.15"
    for pid in range(1, train_ids + test_ids + 1):
        subset = "bounding_box_train" if pid <= train_ids else "bounding_box_test"
        for camera in range(1, cameras + 1):
            for shot in range(shots):
                name = f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg"
                write_image(folder / subset / name, size, seed=pid)
            if pid > train_ids:
                write_image(folder / "query" / f"{pid:04d}_c{camera}s1_000099_00.jpg", size, pid)
    return folder


def write_viper(root: Path, identities: int = 6) -> Path:
    """VIPeR's layout: one image of each identity in each of two cameras."""
    folder = root / "viper"
    for pid in range(identities):
        for camera, angle in (("cam_a", 0), ("cam_b", 90)):
            write_image(folder / "VIPeR" / camera / f"{pid:03d}_{angle}.bmp", seed=pid)
    return folder
