"""What the tests of faults share."""

from __future__ import annotations

import pytest

from tests.faults.world import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder
