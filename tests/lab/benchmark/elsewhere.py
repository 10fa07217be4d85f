"""Work for another process, light to import there."""

from __future__ import annotations

import os


def process_id() -> int:
    """Of the process it runs in."""
    return os.getpid()


def fail(message: str) -> None:
    """Raises what was asked for."""
    raise ValueError(message)


def end_at_once() -> None:
    """As the kernel ends a process for want of memory: without a word."""
    os._exit(9)


def fill(megabytes: int) -> int:
    """Touches so much memory and lets it go."""
    return len(b"x" * (megabytes * 1_000_000))


def peak_of_fill(first: int, second: int) -> tuple[float, float]:
    """MB before and at the peak of the second fill; the first must not count."""
    from embae_plugin.lab.benchmark.machine import peak_of

    fill(first)
    _, before, peak = peak_of(lambda: fill(second))
    return before, peak
