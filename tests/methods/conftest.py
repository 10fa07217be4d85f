"""What all tests of engines share."""

from __future__ import annotations

import pytest

from tests.methods.tiny import tiny_data, tiny_store
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def store():
    return tiny_store()
