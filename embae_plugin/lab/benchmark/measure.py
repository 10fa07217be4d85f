"""Repeated measurements, and one row of the table they make."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measured:
    """One quantity, measured some times."""

    values: tuple[float, ...]  # one for each repeat
    unit: str  # s, ms or MB, of which less is better, or a rate such as img/s
    who: str = ""  # whose it is, where that isn't obvious

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the range of the repeats; 0 for a single one."""
        return (max(self.values) - min(self.values)) / 2

    def times_better_than(self, other: float) -> float:
        """By what factor the median beats another value of the same unit."""
        return self.median / other if self.unit.endswith("/s") else other / self.median

    def as_rate(self, amount: float, unit: str) -> Measured:
        """From seconds to ``amount`` per second."""
        return Measured(tuple(amount / value for value in self.values), unit, self.who)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    subject: str
    what: str  # the work
    device: str
    stock: Measured | None = None  # torchreid's, or whatever else ours is compared with
    ours: Measured | None = None  # None where it was not measured; the note says why
    floor: float | None = None  # the least that this machine could do it in, in the unit of ours
    floor_text: str = ""  # what the floor counts
    note: str = ""  # what is compared, and what was found besides
    size: str = ""  # of the work, where all rows of the subject share it

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than stock."""
        if self.stock is None or self.ours is None:
            return None
        return self.ours.times_better_than(self.stock.median)

    @property
    def times_floor(self) -> float | None:
        """How many times the floor ours takes."""
        if self.ours is None or not self.floor:
            return None
        return 1 / self.ours.times_better_than(self.floor)


def not_measured(subject: str, what: str, device: str, why: str) -> Row:
    """A row that says that there is a gap, and why."""
    return Row(subject, what, device, note=f"{NOT_MEASURED}: {why}")


def synchronise(device: str) -> None:
    """Waits for a GPU's queue; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """The wall-clock seconds of one call."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def alternate(
    label: str, tasks: Sequence[Callable[[], float]], repeats: int, warm_up: int = 0
) -> list[tuple[float, ...]]:
    """Runs tasks in turn, so that whatever else the machine does disturbs them alike.

    Each does its work once and returns how long it took; the first ``warm_up`` rounds don't count.

    Returns:
        for each task, what it returned in each round.
    """
    rounds = tqdm(range(warm_up + repeats), desc=label, unit="round", disable=None, leave=False)
    table = [[task() for task in tasks] for _ in rounds]
    taken = [values[warm_up:] for values in zip(*table, strict=True)]
    logger.info("%s: %s", label, " | ".join(f"{statistics.median(v):.3g}" for v in taken))
    return taken
