"""Work on many small items by forked processes that share memory.

Pillow gives up Python's lock for parts of an image alone. For crops these parts are so short that
threads spend what they gain on passing the lock around: two decode hardly faster than one.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

T = TypeVar("T")

_RUN = 32  # items that a process takes one after another before it leaves out the others'


def can_fork() -> bool:
    """Whether this process may start others that share its memory (Linux, and no daemon)."""
    return sys.platform.startswith("linux") and not multiprocessing.current_process().daemon


def shared_array(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """An array of zeros that processes forked from this one read and write, too."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)


def forked(work: Callable[[int], T | None], count: int, workers: int, bar: tqdm[Any]) -> list[T]:
    """``work(i)`` for all i below ``count``, in ``workers`` processes.

    Args:
        work: leaves its results in shared memory; what it returns other than None, a failure,
            must be picklable.
        bar: is moved as items are done.

    Returns:
        the failures, by item.

    Raises:
        MemoryError: a process was killed, most likely for want of memory.
        Exception: what ``work`` raised.
    """
    done = shared_array((workers,), np.int64)
    context = multiprocessing.get_context("fork")
    processes, ends = [], []
    try:
        for rank in range(workers):
            receive, send = context.Pipe(duplex=False)
            arguments = (work, range(rank * _RUN, count, workers * _RUN), count, done[rank:], send)
            processes.append(context.Process(target=_labour, args=arguments, daemon=True))
            processes[-1].start()
            send.close()
            ends.append(receive)
        found: list[tuple[int, T]] = []
        while ends:
            for end in wait(ends, timeout=0.1):
                found += _received(end)  # type: ignore[arg-type]
                ends.remove(end)  # type: ignore[arg-type]
            bar.update(int(done.sum()) - bar.n)
        return [failure for _, failure in sorted(found, key=lambda pair: pair[0])]
    finally:
        for process in processes:
            process.terminate()  # those that have finished don't mind
        for process in processes:
            process.join()


def _received(end: Connection) -> Any:
    try:
        message = end.recv()
    except EOFError:
        raise MemoryError(
            "a process that decodes images was killed, most likely for want of memory; a smaller "
            "embae.image_memory_share, or a larger machine, would do"
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _labour(
    work: Callable[[int], T | None], starts: range, count: int, done: np.ndarray, send: Connection
) -> None:
    """What a process does: its runs of items, then one message."""
    # Ctrl-C reaches all processes of a terminal; what is to happen then, the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent, failures = os.getppid(), []
    try:
        for start in starts:
            for index in range(start, min(start + _RUN, count)):
                failure = work(index)
                if failure is not None:
                    failures.append((index, failure))
                done[0] += 1
            if os.getppid() != parent:  # killed: there is nobody to work for
                return
    except Exception as error:
        send.send(error)
    else:
        send.send(failures)
