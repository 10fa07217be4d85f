"""Several runs that differ in the seed alone: means, spreads and gains over a baseline.

The spread is the sample standard deviation; a gain is taken against the baseline of the same run,
so that what the seeds' first stages differ by cancels.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tabulate import tabulate

from embae_plugin.evaluation.learning_curves import COLUMNS, adaptation_curves
from embae_plugin.evaluation.score_table import HEADERS, SHOWN, Row

BASELINE, BOUND = "baseline", "supervised"
T = TypeVar("T")
Seed = Mapping[str, Row]  # the scores of one run: variant to row of results.json


def mean(values: Sequence[float]) -> float | None:
    """The mean over the seeds; None of no values."""
    return statistics.fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation over the seeds; None for a single one."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_text(values: Sequence[float], digits: int = 3, signed: bool = False) -> str:
    """``0.123 ± 0.004``; a single value has no spread, none at all is a dash."""
    middle, around = mean(values), spread(values)
    if middle is None:
        return "–"
    text = f"{middle:{'+' if signed else ''}.{digits}f}"
    return text if around is None else f"{text} ± {around:.{digits}f}"


def _beside(seeds: Sequence[Seed], variants: Sequence[str], column: str) -> list[list[float]]:
    """The scores of some variants in each run that has all of them."""
    rows = ([seed.get(name, {}).get(column) for name in variants] for seed in seeds)
    found: list[list[Any]] = [row for row in rows if None not in row]
    return found


def scores_of(seeds: Sequence[Seed], variant: str, column: str) -> tuple[float, ...]:
    """A variant's score in each run that has one."""
    return tuple(score for (score,) in _beside(seeds, [variant], column))


def gains(seeds: Sequence[Seed], variant: str, base: str, column: str) -> tuple[float, ...]:
    """What a variant scores more than another one of the same run, for each run with both."""
    return tuple(score - low for score, low in _beside(seeds, [variant, base], column))


def _shares(seeds: Sequence[Seed], variant: str, column: str) -> str:
    """How much of each run's gap between baseline and bound a variant closes, in percent."""
    rows = _beside(seeds, [variant, BASELINE, BOUND], column)
    shares = [100 * (score - low) / (high - low) for score, low, high in rows if high > low]
    return f"{mean_text(shares, 0)} %" if shares else "–"


class RunScores(NamedTuple):
    """What a run folder of ``embae train`` says of its scores."""

    folder: Path  # where it was read
    target: str
    sources: tuple[str, ...]
    seed: int
    rows: dict[str, Row]  # variant to row of results.json
    curves: dict[str, list[Row]]  # variant to its scored epochs; empty without test.eval_freq


def _read(path: Path, take: Callable[[Any], T]) -> T:
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist: name the data.save_dir of a finished run of embae train"
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"{path} is not what embae train writes: {e!r}") from None


def _scored(row: Row, columns: Sequence[str]) -> Row:
    """A row in which these columns must be numbers."""
    return {**row, **{column: float(row[column]) for column in columns}}


def _curves(history: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    return {name: [{**_scored(row, COLUMNS), "epoch": int(row["epoch"])} for row in curve]
            for name, curve in adaptation_curves(history).items()}


def read_run(folder: str | Path) -> RunScores:
    """Reads ``results.json`` and, if it is there, ``history.json``.

    Raises FileNotFoundError without the former, ValueError where one of the two is damaged.
    """
    folder = Path(folder)
    history = folder / "history.json"
    run = _read(folder / "results.json", lambda content: RunScores(
        folder, str(content["target"]), tuple(content["sources"]), int(content["seed"]),
        {str(row["variant"]): _scored(row, [c for c in SHOWN if row.get(c) is not None])
         for row in content["rows"]}, {},
    ))
    if history.exists():
        run.curves.update(_read(history, _curves))
    return run


def read_runs(folders: Sequence[str | Path]) -> list[RunScores]:
    """Several runs of the same data, each with a seed of its own: ValueError if they are not."""
    runs = [read_run(folder) for folder in folders]
    for run, what in itertools.product(runs, ("sources", "target")):
        first, other = getattr(runs[0], what), getattr(run, what)
        if first != other:
            raise ValueError(f"{runs[0].folder} and {run.folder} differ in the {what}: {first} "
                             f"and {other}; averaged are runs of one pair")
    seeds = [run.seed for run in runs]
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise ValueError(f"seed {min(twice)} comes more than once among "
                         f"{', '.join(str(run.folder) for run in runs)}")
    return runs


def spread_table(runs: Sequence[RunScores]) -> str:
    """Lines for each variant that all runs have: scores, and gains over each run's baseline.

    Where the runs have the supervised bound, too: the share of the gap to it that is closed.
    """
    seeds = [run.rows for run in runs]
    shared = [name for name in seeds[0] if all(name in rows for rows in seeds)]
    body: list[list[str]] = []
    for name in shared:
        body.append([name, *(mean_text(scores_of(seeds, name, c)) for c in SHOWN)])
        if name != BASELINE and BASELINE in seeds[0]:
            over = (gains(seeds, name, BASELINE, c) for c in SHOWN)
            body.append([f"{name}, gain", *(mean_text(values, signed=True) for values in over)])
            if name != BOUND and {BASELINE, BOUND} <= set(shared):
                body.append([f"{name}, of the gap", *(_shares(seeds, name, c) for c in SHOWN)])
    headers = ["Model", *(HEADERS[column] for column in SHOWN)]
    return str(tabulate(body, headers, "github", disable_numparse=True))
