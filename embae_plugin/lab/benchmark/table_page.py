"""Rows as a table for the terminal, as a page of the documentation, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby

from tabulate import tabulate

from embae_plugin.lab.benchmark.measure import NOT_MEASURED, Measured, Row

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


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def cell(measured: Measured | None) -> str:
    """A measurement as a cell."""
    if measured is None:
        return "–"
    spread = f" ± {_number(measured.spread)}" if len(measured.values) > 1 else ""
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
