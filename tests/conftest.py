"""Fixtures for everything that needs files: real data and weights, or tiny stand-ins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from embae_plugin.training import train_step
from tests.zoo_files import write_market1501

# `pytest --hypothesis-profile deep`: for tests that follow the profile, such as the fuzz tests.
settings.register_profile("deep", max_examples=3000, deadline=None)


def _folder_from_environment(variable: str, content: str) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        pytest.skip(f"{variable} does not name a folder with {content}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def float32_where_nothing_is_said():
    """On processors torch's bfloat16 gradients of maps a pixel wide, as here, can be anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "has_fast_bf16", lambda device: False)
        yield


@pytest.fixture
def reid_data_root(tmp_path: Path) -> Path:
    """A writable root with links to the real datasets below EMBAE_TEST_DATA.

    Each dataset's own folder is a real one, because torchreid caches splits in it.
    """
    source = _folder_from_environment("EMBAE_TEST_DATA", "market1501, viper and cuhk01")
    root = tmp_path / "reid-data"
    for dataset in (path for path in source.iterdir() if path.is_dir()):
        (root / dataset.name).mkdir(parents=True)
        for entry in dataset.iterdir():
            if entry.suffix != ".json":
                (root / dataset.name / entry.name).symlink_to(entry.resolve())
    return root


@pytest.fixture
def imagenet_weights() -> Path:
    """The folder of ImageNet weight files that EMBAE_TEST_WEIGHTS names."""
    return _folder_from_environment("EMBAE_TEST_WEIGHTS", "ImageNet weight files")


@pytest.fixture
def market_root(tmp_path: Path) -> Path:
    """A root with a tiny stand-in for Market-1501: 4 + 3 identities, 2 cameras, 2 shots."""
    write_market1501(tmp_path / "root")
    return tmp_path / "root"
