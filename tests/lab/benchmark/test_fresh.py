"""Work in another process: results, errors, and memory that is its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import pytest

from embae_plugin.lab.benchmark.machine import FreshProcess
from tests.lab.benchmark import elsewhere


@pytest.fixture(scope="module")
def process() -> Iterator[FreshProcess]:
    with FreshProcess() as started:
        yield started


def test_calls_share_one_process_that_is_another(process: FreshProcess) -> None:
    first, second = process.call(elsewhere.process_id), process.call(elsewhere.process_id)
    assert first == second != os.getpid()


def test_its_data_loaders_start_workers_as_a_user_s_do(process: FreshProcess) -> None:
    assert process.call(multiprocessing.get_start_method) == multiprocessing.get_start_method()


def test_an_error_comes_back_as_it_was_raised(process: FreshProcess) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        process.call(elsewhere.fail, "no such thing")


def test_the_peak_is_that_of_the_work_alone(process: FreshProcess) -> None:
    before, peak = process.call(elsewhere.peak_of_fill, 300, 100)
    assert 90 < peak - before < 200


def test_a_killed_process_is_told_as_a_lack_of_memory() -> None:
    with FreshProcess() as doomed, pytest.raises(MemoryError, match="end_at_once was killed"):
        doomed.call(elsewhere.end_at_once)
