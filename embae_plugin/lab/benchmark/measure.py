"""Repeated measurements and the rows they make: for the terminal, as a page, and as JSON."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from tabulate import tabulate

from embae_plugin.progress import progress

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured"
HEADERS = ("work", "on", "against", "ours", "ratio", "floor", "× floor")
TITLES = {
    "ranking": "Ranking at Market size",
    "growth": "Ranking with large galleries",
    "training": "Stage 1 training",
    "features": "Feature extraction",
    "stages": "Stages 2 and 3 on cached features",
    "adaptation": "A target, end to end",
}
_EXPLANATION = """\
Each cell is the median ± half the range of the repeats. The ratio says how many times better ours
is: less time, less memory, or more images a second. The floor is the least the machine could do
the work in: what the line under the table counts, over the rate that the same run measured for a
matrix product or a copy (the best of several tries); the last column says how many times the floor
ours takes. Nothing is below its floor except where a cache is faster than the memory it was taken
for, or where other work on the machine slowed the rate's measurement down."""

_OVERVIEW = """\
The ratio is to torchreid, or to what the subject's own table below names; – on a GPU means that
this machine has none."""


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

    def times_better_than(self, other: float) -> float:
        """By what factor the median beats another value of the same unit."""
        return self.median / other if self.unit.endswith("/s") else other / self.median


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
    rounds = progress(range(warm_up + repeats), label, unit="round")
    table = [[task() for task in tasks] for _ in rounds]
    taken = [values[warm_up:] for values in zip(*table, strict=True)]
    logger.info("%s: %s", label, " | ".join(f"{statistics.median(v):.3g}" for v in taken))
    return taken


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def cell(measured: Measured | None) -> str:
    """A measurement as a cell: median, half the range of several repeats, and unit."""
    if measured is None:
        return "–"
    half = (max(measured.values) - min(measured.values)) / 2
    spread = f" ± {_number(half)}" if len(measured.values) > 1 else ""
    return f"{_number(measured.median)}{spread} {measured.unit}"


def _cells(row: Row, mark: str = "") -> list[str]:
    floor = f"{_number(row.floor)} {row.ours.unit}" if row.floor and row.ours else "–"
    ratio = "–" if row.ratio is None else f"{_number(row.ratio)} ×"
    times = "–" if row.times_floor is None else _number(row.times_floor)
    return [row.what + mark, row.device, cell(row.stock), cell(row.ours), ratio, floor, times]


def remark(row: Row) -> str:
    """What has to be said about a row: whose the left number is, what is compared, the floor."""
    stock = f"against {row.stock.who}" if row.stock and row.stock.who else ""
    floor = f"floor: {row.floor_text}" if row.floor and row.floor_text else ""
    return "; ".join(part for part in (stock, row.note, floor) if part)


def subject_table(rows: Sequence[Row], style: str) -> str:
    """The rows of one subject with numbered remarks; equal remarks share a number."""
    remarks = list(dict.fromkeys(filter(None, map(remark, rows))))
    body = [_cells(r, f" [{remarks.index(remark(r)) + 1}]" if remark(r) else "") for r in rows]
    lines = [f"{number}. {text}." for number, text in enumerate(remarks, 1)]
    table = tabulate(body, HEADERS, style, disable_numparse=True)
    text = "\n".join([table, "", *lines]).rstrip()
    sizes = {row.size: row.device for row in rows if row.size}  # what they work on
    told = [f"{device}: {size}" for size, device in sizes.items()] if len(sizes) > 1 else sizes
    return f"{'; '.join(told)}.\n\n{text}" if sizes else text


def _subjects(rows: Sequence[Row], style: str) -> list[tuple[str, str]]:
    """The title and the table of each subject."""
    groups = groupby(rows, lambda row: row.subject)
    return [(TITLES[subject], subject_table(list(own), style)) for subject, own in groups]


def text(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Everything, for a terminal."""
    parts = [f"{title}\n\n{table}" for title, table in _subjects(rows, "simple")]
    return "\n\n".join([*parts, "\n".join(f"{name}: {value}" for name, value in facts.items())])


def overview(rows: Sequence[Row], style: str) -> str:
    """One table of everything that was measured or left out, without the remarks."""
    body = []
    for row in rows:
        if row.ours is not None or row.note.startswith(NOT_MEASURED):
            what, device, _, ours, ratio, _, times = _cells(row)
            body.append([TITLES[row.subject], what, device, ours, ratio, times])
    headers = ("subject", "work", "on", "ours", "ratio", "× floor")
    return str(tabulate(body, headers, style, disable_numparse=True))


def markdown(rows: Sequence[Row], facts: Mapping[str, str], command: str) -> str:
    """Everything, as a page."""
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    parts = ["# Benchmarks", f"Made by `{command}`.", lines, _EXPLANATION,
             "## Everything in one table", _OVERVIEW, overview(rows, "github")]
    for title, table in _subjects(rows, "github"):
        parts += [f"## {title}", table]
    return "\n\n".join(parts) + "\n"


def as_json(rows: Sequence[Row], facts: Mapping[str, str], command: str) -> str:
    """Everything, for programs: every repeat of every measurement."""
    plain = [{**asdict(row), "ratio": row.ratio, "times_floor": row.times_floor} for row in rows]
    content = {"command": command, "facts": dict(facts), "rows": plain}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
