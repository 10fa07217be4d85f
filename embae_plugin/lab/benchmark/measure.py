"""Repeated measurements, and one row of the table they make."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

Task = Callable[[], float]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measured:
    """One quantity, measured some times.

    Attributes:
        values: one for each repeat.
        unit: ``s``, ``ms`` or ``MB``, of which less is better, or a rate such as ``img/s``.
        who: whose it is, where that isn't obvious (``torchreid 0.2.5, Python``).
    """

    values: tuple[float, ...]
    unit: str
    who: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the range of the repeats; 0 for a single one."""
        return (max(self.values) - min(self.values)) / 2

    @property
    def is_rate(self) -> bool:
        """More is better."""
        return self.unit.endswith("/s")

    def times_better_than(self, other: float) -> float:
        """By what factor the median beats another value of the same unit."""
        return self.median / other if self.is_rate else other / self.median

    def scaled(self, factor: float, unit: str = "") -> Measured:
        """Every value times ``factor``."""
        values = tuple(value * factor for value in self.values)
        return Measured(values, unit or self.unit, self.who)

    def as_rate(self, amount: float, unit: str) -> Measured:
        """From seconds to ``amount`` per second."""
        return Measured(tuple(amount / value for value in self.values), unit, self.who)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        subject: which of the command's subjects it belongs to.
        what: the work.
        device: ``cpu`` or ``cuda``.
        stock: torchreid's, or whatever else ours is compared with; None if there is nothing.
        ours: None where it was not measured; ``note`` says why.
        floor: the least that this machine could do it in, in the unit of ``ours``.
        floor_text: what the floor counts.
        note: what is compared, and what was found besides.
        size: of the work, where all rows of the subject share it.
    """

    subject: str
    what: str
    device: str
    stock: Measured | None = None
    ours: Measured | None = None
    floor: float | None = None
    floor_text: str = ""
    note: str = ""
    size: str = ""

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


def synchronise(device: str | torch.device) -> None:
    """Waits for a GPU's queue; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """The wall-clock seconds of one call."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def timed(work: Callable[[], Any], device: str | torch.device = "cpu") -> Task:
    """``work`` as a task for :func:`alternate`."""
    return lambda: seconds(work, device)


def alternate(
    label: str, tasks: Sequence[Task], repeats: int, warm_up: int = 0
) -> list[list[float]]:
    """Runs tasks in turn, so that whatever else the machine does disturbs them alike.

    Args:
        label: for the progress bar.
        tasks: each does its work once and returns how long it took.
        repeats: rounds that count.
        warm_up: rounds before them that don't.

    Returns:
        for each task, what it returned in each round.
    """
    taken: list[list[float]] = [[] for _ in tasks]
    total = (repeats + warm_up) * len(tasks)
    with tqdm(total=total, desc=label, unit="run", disable=None, leave=False) as bar:
        for number in range(-warm_up, repeats):
            for task, values in zip(tasks, taken, strict=True):
                value = task()
                if number >= 0:
                    values.append(value)
                bar.update()
    logger.info("%s: %s s", label, " | ".join(f"{statistics.median(v):.3g}" for v in taken))
    return taken
