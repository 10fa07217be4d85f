"""Rows as a table for the terminal, as a page of the documentation, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

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


def _body(rows: Sequence[Row], marks: Sequence[str]) -> list[list[str]]:
    body = []
    for row, mark in zip(rows, marks, strict=True):
        unit = row.ours.unit if row.ours else ""
        body.append([
            row.what + mark,
            row.device,
            cell(row.stock),
            cell(row.ours),
            "–" if row.ratio is None else f"{_number(row.ratio)} ×",
            "–" if not row.floor else f"{_number(row.floor)} {unit}",
            "–" if row.times_floor is None else _number(row.times_floor),
        ])  # fmt: skip
    return body


def remark(row: Row) -> str:
    """What has to be said about a row: whose the left number is, what is compared, the floor."""
    stock = f"against {row.stock.who}" if row.stock and row.stock.who else ""
    floor = f"floor: {row.floor_text}" if row.floor and row.floor_text else ""
    return "; ".join(part for part in (stock, row.note, floor) if part)


def subject_table(rows: Sequence[Row], style: str) -> str:
    """The rows of one subject with numbered remarks; equal remarks share a number."""
    remarks = list(dict.fromkeys(remark(row) for row in rows if remark(row)))
    marks = [f" [{remarks.index(remark(row)) + 1}]" if remark(row) else "" for row in rows]
    table = tabulate(_body(rows, marks), headers=HEADERS, tablefmt=style, disable_numparse=True)
    lines = [f"{number}. {text}." for number, text in enumerate(remarks, 1)]
    return "\n".join([*_size_line(rows), table, "", *lines]).rstrip()


def _size_line(rows: Sequence[Row]) -> list[str]:
    """What all rows work on, by device where that differs."""
    sizes = {(row.device, row.size): None for row in rows if row.size}
    if not sizes:
        return []
    if len({size for _, size in sizes}) == 1:
        return [f"{next(iter(sizes))[1]}.", ""]
    return ["; ".join(f"{device}: {size}" for device, size in sizes) + ".", ""]


def _by_subject(rows: Sequence[Row]) -> dict[str, list[Row]]:
    subjects: dict[str, list[Row]] = {}
    for row in rows:
        subjects.setdefault(row.subject, []).append(row)
    return subjects


def text(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Everything, for a terminal."""
    parts = [
        f"{TITLES.get(subject, subject)}\n\n{subject_table(own, 'simple')}"
        for subject, own in _by_subject(rows).items()
    ]
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items())
    return "\n\n".join([*parts, lines])


def overview(rows: Sequence[Row], style: str) -> str:
    """One table of everything that was measured or left out, without the remarks."""
    body = [
        [TITLES.get(row.subject, row.subject), *cells[:2], *cells[3:5], cells[6]]
        for row, cells in zip(rows, _body(rows, [""] * len(rows)), strict=True)
        if row.ours is not None or row.note.startswith(NOT_MEASURED)
    ]
    headers = ("subject", "work", "on", "ours", "ratio", "× floor")
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))


def markdown(rows: Sequence[Row], facts: Mapping[str, str], command: str) -> str:
    """Everything, as a page."""
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    parts = ["# Benchmarks", f"Made by `{command}`.", lines, _EXPLANATION]
    parts += ["## Everything in one table", _OVERVIEW, overview(rows, "github")]
    for subject, own in _by_subject(rows).items():
        parts += [f"## {TITLES.get(subject, subject)}", subject_table(own, "github")]
    return "\n\n".join(parts) + "\n"


def as_json(rows: Sequence[Row], facts: Mapping[str, str], command: str) -> str:
    """Everything, for programs: every repeat of every measurement."""
    content: dict[str, Any] = {
        "command": command,
        "facts": dict(facts),
        "rows": [
            {**asdict(row), "ratio": row.ratio, "times_floor": row.times_floor} for row in rows
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
