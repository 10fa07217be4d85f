"""From the scores of every seed to the rows of the paper's tables: means, spreads, gains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embae_plugin.evaluation.score_table import Row
from embae_plugin.lab.reproduction.published import TARGET_IMAGES, PaperRow, PaperTable
from embae_plugin.lab.reproduction.roles import PulSetting

NUMBERS = {"target": "training", "query": "query", "gallery": "gallery"}


@dataclass(frozen=True)
class Cell:
    """One score of one row.

    Attributes:
        published, published_gain: what the paper prints, None where it has nothing.
        values: ours, one for each seed.
        gains: ours minus the same seed's baseline; empty for a baseline.
        comparable: the same method on the same data, so that a difference means something.
    """

    published: float | None
    published_gain: float | None
    values: tuple[float, ...]
    gains: tuple[float, ...]
    comparable: bool

    @property
    def mean(self) -> float | None:
        """Ours, the mean over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def gain(self) -> float | None:
        """The mean gain over the baseline."""
        return statistics.fmean(self.gains) if self.gains else None

    @property
    def difference(self) -> float | None:
        """Ours minus the published number, None where the two are not comparable."""
        if self.mean is None or self.published is None or not self.comparable:
            return None
        return self.mean - self.published


@dataclass(frozen=True)
class TableRow:
    """One row: a model's name and a cell for each of the table's columns."""

    label: str
    variant: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class TableResult:
    """A table, as far as it is filled.

    Attributes:
        number, title: of the paper's table.
        sources, target: what it was run on.
        wanted, seeds: the seeds asked for, and those done.
        differs: in what the data differ from the paper's; empty: not at all.
        missing: why nothing could be run; ``""``: it could.
        notes: remarks on rows.
        footnotes: on the paper's print.
    """

    number: int
    title: str
    sources: tuple[str, ...]
    target: str
    columns: tuple[str, ...]
    wanted: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: tuple[TableRow, ...]
    differs: tuple[str, ...] = ()
    missing: str = ""
    notes: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()


def data_differences(
    table: PaperTable, sources: Sequence[str], target: str, images: Mapping[str, int]
) -> tuple[str, ...]:
    """In what the data of a run differ from those of the paper's table.

    Args:
        images: how many the target has in its training split, query and gallery (keys of
            :data:`TARGET_IMAGES`); empty where they were not counted.
    """
    differences = []
    if set(sources) != set(table.sources):
        differences.append(f"trained on {', '.join(sources)}, not on {', '.join(table.sources)}")
    if target != table.target:
        differences.append(f"the target is {target}, not {table.target}")
    elif images and any(images[key] != count for key, count in TARGET_IMAGES.items()):
        ours = ", ".join(f"{images[key]:,} {name}" for key, name in NUMBERS.items())
        theirs = ", ".join(f"{TARGET_IMAGES[key]:,} {name}" for key, name in NUMBERS.items())
        differences.append(f"{target} has {ours} images here, the published one {theirs}")
    return tuple(differences)


def fill(
    row: PaperRow,
    table_rows: Sequence[PaperRow],
    columns: Sequence[str],
    scores: Sequence[Mapping[str, Row]],
    pul: PulSetting,
    same_data: bool,
) -> TableRow:
    """One row of a table.

    Args:
        row: the paper's.
        table_rows: of the same table, among them the one the gain is against.
        columns: the scores to show.
        scores: for each seed, variant to row of ``results.json``.
        pul: what PUL's rows are.
        same_data: whether the data are the paper's.
    """
    base = next((other for other in table_rows if other.role == row.against), None)
    variant = pul.variant(row.role)
    cells = {}
    for column in columns:
        published = row.scores.get(column)
        before = base.scores.get(column) if base else None
        ours = [_score(seed, variant, column) for seed in scores]
        values = tuple(value for value in ours if value is not None)
        gains: tuple[float, ...] = ()
        if base:
            bases = [_score(seed, pul.variant(base.role), column) for seed in scores]
            pairs = zip(ours, bases, strict=True)
            gains = tuple(v - b for v, b in pairs if v is not None and b is not None)
        gain = None if published is None or before is None else published - before
        comparable = same_data and pul.comparable(row)
        cells[column] = Cell(published, gain, values, gains, comparable)
    return TableRow(pul.label(row), variant, cells)


def _score(seed: Mapping[str, Row], variant: str, column: str) -> float | None:
    return seed.get(variant, {}).get(column)
