"""Forked processes that share memory: results, failures, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin.data import image_bank
from embae_plugin.data.image_bank import CorruptImageError, ImageBank
from embae_plugin.data.parallel import can_fork, in_parallel, shared_array

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs processes that share memory")


def forked(work, count, workers):
    return list(in_parallel(work, count, workers, processes=True))


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (31, 2), (33, 2), (200, 3), (5, 4)])
def test_every_item_is_done_once_and_results_come_in_order(count, workers):
    out = shared_array((count,))

    def work(index):
        out[index] += index + 1
        return f"item {index}" if index % 7 == 3 else None

    found = forked(work, count, workers)
    assert out.tolist() == list(range(1, count + 1))
    assert found == [f"item {index}" if index % 7 == 3 else None for index in range(count)]
    assert not multiprocessing.active_children()


def test_what_an_item_raises_is_raised():
    def work(index):
        raise OSError(f"item {index}")

    with pytest.raises(OSError, match="item"):
        forked(work, 50, 2)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told_as_a_lack_of_memory():
    def work(index):
        if index == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MemoryError, match="was killed, most likely for want"):
        forked(work, 100, 2)
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_it_soon_and_leaves_no_process():
    def work(index):
        time.sleep(0.05)

    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        forked(work, 1000, 2)
    assert time.monotonic() - started < 10
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [OSError(38, "Function not implemented"), ImportError("sem"),
                                   PermissionError(13, "Permission denied", "/dev/shm")])
def test_without_shared_memory_for_locks_threads_do_it(monkeypatch, error):
    """Python's processes wait for one another by locks that lie in /dev/shm."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(type(error)):
        multiprocessing.get_context("fork").Lock()
    assert forked(lambda n: (n, os.getpid()), 40, 2) == [(n, os.getpid()) for n in range(40)]


@pytest.fixture
def crops(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(70)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (20, 11, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("cached", [False, True])
def test_processes_decode_what_threads_decode(crops, tmp_path, monkeypatch, cached):
    expected = ImageBank(crops, 16, 8).images
    monkeypatch.setattr(image_bank, "MANY", 2)
    monkeypatch.setattr(image_bank, "cpu_count", lambda: 2)
    calls = []

    def spied(*arguments):
        calls.append(arguments[3])
        return in_parallel(*arguments)

    monkeypatch.setattr(image_bank, "in_parallel", spied)
    bank = ImageBank(crops, 16, 8, cache_dir=tmp_path / "cache" if cached else "")
    assert calls == [True] and torch.equal(bank.images, expected)
    assert bank.place == ("file" if cached else "memory")


def test_all_damaged_files_are_listed_and_the_others_kept(crops, monkeypatch):
    monkeypatch.setattr(image_bank, "MANY", 2)
    monkeypatch.setattr(image_bank, "cpu_count", lambda: 2)
    for number in (3, 50, 69):
        with open(crops[number], "wb") as stream:
            stream.write(b"no image")
    with pytest.raises(CorruptImageError) as caught:
        ImageBank(crops, 16, 8)
    assert [path for path, _ in caught.value.failures] == [crops[n] for n in (3, 50, 69)]
    assert caught.value.pixels is not None and caught.value.pixels[4].std() > 0
