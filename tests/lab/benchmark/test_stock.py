"""The clock that leaves the first step out, and the model both sides run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embae_plugin.lab.benchmark import stock_torchreid as stock
from embae_plugin.lab.benchmark.context import write_target
from embae_plugin.lab.benchmark.stock_torchreid import (
    BATCH,
    Clock,
    as_its_script,
    build_datamanager,
    build_model,
    workers,
)
from tests.lab.benchmark.tiny import TINY


def test_the_first_step_and_what_comes_after_the_last_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(stock.time, "perf_counter", lambda: next(times))
    clock = Clock("cpu")
    for amount in (72, 3, 2):
        clock.tick(amount)
    assert clock.seconds_per_image() == 10 / 5


@pytest.mark.parametrize("ticks", [0, 1])
def test_one_step_is_too_few(ticks: int) -> None:
    clock = Clock("cpu")
    for _ in range(ticks):
        clock.tick()
    with pytest.raises(ValueError, match=f"{ticks} step.* too few"):
        clock.seconds_per_image()


def test_torchreid_on_a_gpu_has_cudnn_choose_its_kernels_as_its_script_does() -> None:
    assert torch.backends.cudnn.benchmark is False  # as embae leaves it
    for device, chosen in (("cuda", True), ("cpu", False)):
        with pytest.raises(RuntimeError), as_its_script(device):
            assert torch.backends.cudnn.benchmark is chosen
            raise RuntimeError
        assert torch.backends.cudnn.benchmark is False


def test_both_sides_get_the_same_weights() -> None:
    theirs, mine = build_model(TINY, num_classes=5).state_dict(), build_model(TINY).state_dict()
    assert theirs.keys() - mine.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(theirs[key], mine[key]) for key in mine)


def test_torchreid_runs_with_its_own_loaders_and_no_more_workers_than_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "cpu_count", lambda: 64)
    assert workers() == 4
    monkeypatch.setattr(stock, "cpu_count", lambda: 1)
    assert workers() == 1
    write_target(tmp_path, 72, 2, 4)
    manager = build_datamanager(tmp_path, TINY, "cpu", "RandomIdentitySampler")
    assert manager.train_loader.num_workers == 1
    assert manager.train_loader.batch_size == BATCH
    assert type(manager.train_loader.sampler).__module__.startswith("torchreid.")
    assert (manager.height, manager.width) == (32, 16)
