"""A tiny pair of datasets and one complete run on them, shared by the tests of commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.tiny_run import train
from tests.threads import one_thread
from tests.zoo_files import write_market1501, write_viper

__all__ = ["one_thread"]


@pytest.fixture(scope="package")
def root(tmp_path_factory) -> Path:
    """Crops that show their person's colour under much noise, so that scores lie in the middle."""
    root = tmp_path_factory.mktemp("reid-data")
    write_market1501(root, train_ids=4, test_ids=6)
    write_viper(root, identities=6)
    for number, path in enumerate(sorted([*root.rglob("*.jpg"), *root.rglob("*.bmp")])):
        colour = np.random.default_rng(int(path.name.split("_")[0])).uniform(90, 160, 3)
        pixels = colour + np.random.default_rng(number).normal(0, 50, (24, 12, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="package")
def finished(root, tmp_path_factory, one_thread) -> Path:
    """The folder of a complete run with every variant of the paper."""
    save_dir = tmp_path_factory.mktemp("runs") / "one"
    assert train(root, save_dir) == 0
    return save_dir


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))
