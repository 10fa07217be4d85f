"""One torch thread for a package of tests; a conftest that imports the fixture has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

__all__ = ["one_thread"]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks here are tiny: threads cost more than they save, above all on a busy machine.

    How many threads add up a sum changes its last bits, too, which some tests compare.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
