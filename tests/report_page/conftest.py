"""Embeddings of drawn crops, with and without identities, and the pages made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from embae_plugin.report_page import Pair, Settings, gather, read_pair, render
from tests.report_page.files import write_files

SETTINGS = Settings(title="A <b>title</b> & more", map_method="pca", lists=2, length=5)


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="package")
def pair(folder) -> Pair:
    return read_pair(folder / "before.npz", folder / "after.npz")


@pytest.fixture(scope="package")
def unlabelled(tmp_path_factory) -> Pair:
    folder = write_files(tmp_path_factory.mktemp("unlabelled"), labelled=False)
    return read_pair(folder / "before.npz", folder / "after.npz")


@pytest.fixture(scope="package")
def page(pair) -> str:
    return render(gather(pair, SETTINGS))


@pytest.fixture(scope="package")
def unlabelled_page(unlabelled) -> str:
    return render(gather(unlabelled, SETTINGS))
