"""Exact float32, and every switch as it was afterwards."""

from __future__ import annotations

import threading

import pytest
import torch

from embae_plugin.precision import _switches, full_precision

CPU = torch.device("cpu")


def settings() -> list[object]:
    return [getattr(owner, name) for owner, name, _ in _switches()]


@pytest.mark.parametrize("setting", ["medium", "high", "highest"])
def test_what_was_set_is_put_back(setting: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        found = settings()
        with full_precision(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
            for owner, name, exact in _switches():
                assert exact == "" or getattr(owner, name) == exact
        assert torch.get_float32_matmul_precision() == setting and settings() == found
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_error_inside_leaves_nothing_switched() -> None:
    found = settings()
    with pytest.raises(KeyError), full_precision(CPU):
        raise KeyError
    assert settings() == found


def test_blocks_of_threads_that_overlap_restore_the_switches_after_the_last() -> None:
    """The first to come in leaves first, and its exit changes nothing for the other."""
    before = torch.get_float32_matmul_precision()
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    seen: list[str] = []

    def first() -> None:
        with full_precision(CPU):
            first_in.set()
            second_in.wait(20)
        first_out.set()

    def second() -> None:
        first_in.wait(20)
        with full_precision(CPU):
            second_in.set()
            first_out.wait(20)
            seen.append(torch.get_float32_matmul_precision())

    try:
        torch.set_float32_matmul_precision("medium")
        found = settings()
        threads = [threading.Thread(target=work) for work in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium" and settings() == found
    finally:
        torch.set_float32_matmul_precision(before)


def test_blocks_may_nest() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with full_precision(CPU):
            with full_precision(CPU):
                pass
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_stays_outside() -> None:
    a = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision(CPU):
            assert (a @ a).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_convolutions_on_a_gpu_are_those_of_a_processor() -> None:
    conv, x = torch.nn.Conv2d(64, 64, 1), torch.randn(8, 64, 16, 16)
    expected = conv.double()(x.double()).detach()
    with torch.inference_mode(), full_precision(torch.device("cuda")):
        found = conv.float().cuda()(x.cuda()).cpu()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
