"""Work on many small items by threads, or by forked processes that share memory.

Pillow gives up Python's lock for parts of an image alone. For crops these parts are so short that
threads spend what they gain on passing the lock around: two decode hardly faster than one.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

T = TypeVar("T")


def cpu_count() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_fork() -> bool:
    """Whether this process may start others that share its memory (Linux, and no daemon)."""
    return sys.platform.startswith("linux") and not multiprocessing.current_process().daemon


def shared_array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A uint8 array of zeros that processes forked from this one read and write, too."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)


def in_parallel(
    work: Callable[[int], T], count: int, workers: int, processes: bool = False
) -> Iterator[T]:
    """``work(i)`` for all i below ``count``, in order, by threads or ``processes``.

    In processes ``work`` leaves its results in shared memory or files; what it returns must be
    picklable.

    Raises:
        MemoryError: a process was killed, most likely for want of memory.
        Exception: what ``work`` raised.
    """
    pool: Executor
    if processes:  # forked, they inherit ``work``, which need not be picklable
        fork = multiprocessing.get_context("fork")
        try:
            pool = ProcessPoolExecutor(workers, fork, _prepare, (work,))
        except (OSError, ImportError, NotImplementedError) as error:  # its locks need /dev/shm
            logger.info("threads in place of processes, which cannot be started here: %s", error)
            processes = False
    if not processes:
        pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(_call if processes else work, range(count), chunksize=32)
    except BrokenProcessPool:
        raise MemoryError(
            "a process that decodes images was killed, most likely for want of memory; a smaller "
            "embae.image_memory_share, or a larger machine, would do"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(work: Callable[[int], Any]) -> None:
    global _inherited
    _inherited = work
    # Ctrl-C reaches all processes of a terminal; what is to happen then, the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Where the parent is killed, there is nobody to work for: PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _call(index: int) -> Any:
    return _inherited(index)


_inherited: Callable[[int], Any]
