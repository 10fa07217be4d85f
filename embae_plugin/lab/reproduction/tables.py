"""From the scores of every seed to the rows of the paper's tables: means, spreads, gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embae_plugin.lab.reproduction.jobs import PulSetting, is_pul
from embae_plugin.lab.reproduction.published import TARGET, TARGET_IMAGES, PaperRow, PaperTable
from embae_plugin.lab.seeds import Seed, gains, mean, scores_of, spread


@dataclass(frozen=True)
class Cell:
    """One score of one row of a table; what is not known is None."""

    model: str
    variant: str
    score: str
    published: float | None
    published_gain: float | None
    ours: float | None  # the mean over the seeds
    spread: float | None  # the sample standard deviation; None for a single seed
    gain: float | None  # the mean of ours minus the same seed's baseline
    difference: float | None  # ours minus the published number, where they can be compared
    values: tuple[float, ...]  # ours, one for each seed
    comparable: bool  # the same method on the same data, so that a difference means something


@dataclass(frozen=True)
class TableResult:
    """A table of the paper, as far as it is filled."""

    number: int
    sources: tuple[str, ...]  # what it was run on
    target: str
    wanted: tuple[int, ...]  # the seeds asked for
    seeds: tuple[int, ...]  # those done
    rows: tuple[tuple[Cell, ...], ...]
    differs: tuple[str, ...] = ()  # in what the data differ from the paper's
    missing: str = ""  # why nothing could be run
    notes: tuple[str, ...] = ()  # remarks on rows


def data_differences(
    table: PaperTable, sources: Sequence[str], target: str, images: Mapping[str, int]
) -> tuple[str, ...]:
    """In what the data of a run differ from those of the paper's table.

    ``images`` are the target's counts, as :data:`TARGET_IMAGES`; empty: they were not counted.
    """
    differences = []
    if set(sources) != set(table.sources):
        differences.append(f"trained on {', '.join(sources)}, not on {', '.join(table.sources)}")
    if target != TARGET:
        differences.append(f"the target is {target}, not {TARGET}")
    elif images and any(images[key] != count for key, count in TARGET_IMAGES.items()):
        ours, theirs = (", ".join(f"{counts[name]:,} {name}" for name in TARGET_IMAGES)
                        for counts in (images, TARGET_IMAGES))
        differences.append(f"{target} has {ours} images here, the published one {theirs}")
    return tuple(differences)


def fill(
    row: PaperRow, rows: Sequence[PaperRow], columns: Sequence[str], seeds: Sequence[Seed],
    pul: PulSetting, same_data: bool,
) -> tuple[Cell, ...]:
    """One row of a table whose ``rows`` hold the one that the gain is against, too.

    ``same_data``: the data are the paper's, so that the numbers can be compared.
    """
    base = next((other for other in rows if other.role == row.against), None)
    variant, cells = pul.variant(row.role), []
    comparable = same_data and bool(row.scores) and (pul.published or not is_pul(row))
    for column in columns:
        published, values = row.scores.get(column), scores_of(seeds, variant, column)
        before = base.scores.get(column) if base else None
        over = gains(seeds, variant, pul.variant(base.role), column) if base else ()
        cells.append(Cell(
            pul.label(row), variant, column, published, _less(published, before), mean(values),
            spread(values), mean(over), _less(mean(values), published) if comparable else None,
            values, comparable,
        ))
    return tuple(cells)


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
