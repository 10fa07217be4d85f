"""Work in a fresh process: its peak memory is its own, and its C library is as users have it."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

P = ParamSpec("P")
T = TypeVar("T")


def _start_others_by(method: str) -> None:
    multiprocessing.set_start_method(method, force=True)


class FreshProcess(ProcessPoolExecutor):
    """One process, started anew instead of forked, that does what it is given.

    Nothing of this process's heap is in it, and nothing here has told its allocator anything.
    What it is given must be a function of a module, with plain arguments.
    """

    def __init__(self) -> None:
        # A spawned process would spawn the workers of its data loaders, too: each would import
        # torch anew. Its users' processes fork them.
        method = multiprocessing.get_start_method()
        super().__init__(1, multiprocessing.get_context("spawn"), _start_others_by, (method,))

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(*args, **kwargs)``, done over there.

        Raises:
            MemoryError: the process was killed, most likely for want of memory.
        """
        try:
            return self.submit(work, *args, **kwargs).result()
        except BrokenProcessPool:
            raise MemoryError(
                f"the process for {work.__name__} was killed, most likely for want of memory; a "
                "larger machine, or a smaller size, would do"
            ) from None


def peak_of(work: Callable[[], T]) -> tuple[T, float, float]:
    """Runs ``work``; returns its result, and MB in use before and at the peak.

    Where the peak cannot be set back (a container may forbid it), it includes what was before.
    """
    process, status = psutil.Process(), Path("/proc/self/status")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = process.memory_info().rss / 1e6
    result = work()
    memory = process.memory_info()
    # ru_maxrss would also hold what the process was forked from: VmHWM is of this alone
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii")) if status.exists() else None
    peak = 1024 * int(found[1]) if found else getattr(memory, "peak_wset", memory.rss)
    return result, before, peak / 1e6
