"""Work in a fresh process: its peak memory is its own, and its C library is as users have it."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil

P = ParamSpec("P")
T = TypeVar("T")


def _start_others_by(method: str) -> None:
    multiprocessing.set_start_method(method, force=True)


class FreshProcess:
    """One process, started anew instead of forked, that does what it is given.

    Nothing of this process's heap is in it, and nothing here has told its allocator anything.
    What it is given must be a function of a module, with plain arguments.
    """

    def __init__(self) -> None:
        # A spawned process would spawn the workers of its data loaders, too: each would import
        # torch anew. Its users' processes fork them.
        method = multiprocessing.get_start_method()
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _start_others_by, (method,)
        )

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(*args, **kwargs)``, done over there.

        Raises:
            MemoryError: the process was killed, most likely for want of memory.
        """
        try:
            return self._pool.submit(work, *args, **kwargs).result()
        except BrokenProcessPool:
            raise MemoryError(
                f"the process for {work.__name__} was killed, most likely for want of memory; a "
                "larger machine, or a smaller size, would do"
            ) from None


def _status_mb(field: str) -> float:
    # ru_maxrss would also hold what the process was forked from: VmHWM is of this program alone.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6  # its kB are 1,024 bytes
    raise OSError(f"/proc/self/status has no {field}")


def forget_peak() -> float:
    """Starts measuring the peak anew where the system can; returns the memory in use, in MB."""
    if not sys.platform.startswith("linux"):
        return peak_mb()
    # where a container forbids it, the peak includes the preparations
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The most memory that this process has had since :func:`forget_peak`, in MB."""
    if sys.platform.startswith("linux"):
        return _status_mb("VmHWM")
    memory = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 1e6


def peak_of(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Runs ``work``; returns its result, and MB in use before and at the peak."""
    before = forget_peak()
    result = work()
    return result, before, peak_mb()
