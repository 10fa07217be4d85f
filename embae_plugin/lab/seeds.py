"""Several runs that differ in the seed alone: means, spreads, and what the schedule cost.

The spread is the sample standard deviation, as in ``embae reproduce``; a gain is taken against the
baseline of the same run, so that what the seeds' first stages differ by cancels.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from embae_plugin.evaluation.learning_curves import COLUMNS, adaptation_curves
from embae_plugin.evaluation.score_table import HEADERS, SHOWN, Row

BASELINE, BOUND = "baseline", "supervised"


@dataclass(frozen=True)
class RunScores:
    """What a run folder of ``embae train`` says of its scores.

    Attributes:
        folder: where it was read.
        target, sources, seed: of the run.
        rows: variant to row of ``results.json``.
        curves: variant to its scored epochs of adaptation; empty without ``test.eval_freq``.
    """

    folder: Path
    target: str
    sources: tuple[str, ...]
    seed: int
    rows: dict[str, Row]
    curves: dict[str, list[Row]]


def _read(path: Path, absent: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: {absent}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None


def _check_numbers(row: Row, columns: Sequence[str], needed: bool) -> None:
    """Refuses scores that are no numbers; absent ones, too, where they are ``needed``."""
    for column in columns:
        value = row[column] if needed else row.get(column)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and (needed or value is not None):
            raise TypeError(f"{column} is {value!r}, no number")


def read_run(folder: str | Path) -> RunScores:
    """Reads ``results.json`` and, if it is there, ``history.json``.

    Raises:
        FileNotFoundError: ``results.json`` is not there: no run of ``embae train``, or unfinished.
        ValueError: one of the two is damaged.
    """
    folder = Path(folder)
    where = folder / "results.json"
    content = _read(where, "name the data.save_dir of a finished run of embae train")
    history_file = folder / "history.json"
    history = _read(history_file, "") if history_file.exists() else {}
    try:
        rows = {str(row["variant"]): row for row in content["rows"]}
        for row in rows.values():
            _check_numbers(row, SHOWN, needed=False)
        scores = RunScores(folder, str(content["target"]), tuple(content["sources"]),
                           int(content["seed"]), rows, {})  # fmt: skip
        where = history_file
        curves = adaptation_curves(history)
        for epoch in (epoch for curve in curves.values() for epoch in curve):
            _check_numbers(epoch, ("epoch", *COLUMNS), needed=True)
        return replace(scores, curves=curves)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is not what embae train writes: {error!r}") from None


def read_runs(folders: Sequence[str | Path]) -> list[RunScores]:
    """Several runs of the same data, each with a seed of its own.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_run`; also where sources or target differ,
            or a seed comes twice.
    """
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        for what in ("sources", "target"):
            first, other = getattr(runs[0], what), getattr(run, what)
            if first != other:
                raise ValueError(f"{runs[0].folder} and {run.folder} differ in the {what}: {first} "
                                 f"and {other}; averaged are runs of one pair")  # fmt: skip
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"seed {twice[0]} comes more than once among "
                         f"{', '.join(str(run.folder) for run in runs)}")  # fmt: skip
    return runs


def mean_text(values: Sequence[float], digits: int = 3, signed: bool = False) -> str:
    """``0.123 ± 0.004``; a single value has no spread, none at all is a dash."""
    if not values:
        return "–"
    sign = "+" if signed else ""
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _shared(runs: Sequence[RunScores], names: Callable[[RunScores], Sequence[str]]) -> list[str]:
    """The variants that every run has, in the first one's order."""
    return [name for name in names(runs[0]) if all(name in names(run) for run in runs[1:])]


def spread_table(runs: Sequence[RunScores], style: str = "github") -> str:
    """Lines for each variant that all runs have: scores, and gains over each run's baseline.

    Where the runs have the supervised bound, too: the share of the gap to it that is closed.
    """
    body: list[list[str]] = []
    bounded = all(BOUND in run.rows and BASELINE in run.rows for run in runs)
    for name in _shared(runs, lambda run: list(run.rows)):
        cells, gains = [], []
        for column in SHOWN:
            pairs = [(run.rows[name].get(column), run.rows.get(BASELINE, {}).get(column))
                     for run in runs]  # fmt: skip
            cells.append(mean_text([value for value, _ in pairs if value is not None]))
            differences = [v - b for v, b in pairs if v is not None and b is not None]
            gains.append(mean_text(differences, signed=True))
        body.append([name, *cells])
        if name != BASELINE and BASELINE in runs[0].rows:
            body.append([f"{name}, gain", *gains])
            if bounded and name != BOUND:
                body.append([f"{name}, of the gap", *_shares(runs, name)])
    headers = ["Model", *(HEADERS[column] for column in SHOWN)]
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))


def _shares(runs: Sequence[RunScores], name: str) -> list[str]:
    """How much of each run's gap between baseline and bound a variant closes, in percent."""
    cells = []
    for column in SHOWN:
        values = [
            100 * (row[column] - low[column]) / (high[column] - low[column])
            for row, low, high in ((r.rows[name], r.rows[BASELINE], r.rows[BOUND]) for r in runs)
            if all(one.get(column) is not None for one in (row, low, high))
            and high[column] > low[column]
        ]
        cells.append(f"{mean_text(values, 0)} %" if values else "–")
    return cells


def schedule_table(
    runs: Sequence[RunScores], columns: Sequence[str] = ("rank1", "mAP"), style: str = "github"
) -> str:
    """What stopping at the last epoch cost each variant, against the best scored epoch.

    The best epoch is picked by the target's labels, out of noisy ones, so the cost is an upper
    bound of what a better rule for stopping could gain.

    Returns:
        a line for each variant; ``""`` where the runs have no scored epochs in common.
    """
    names = _shared(runs, lambda run: list(run.curves))
    if not names:
        return ""
    body = []
    for name in names:
        line = [name]
        for column in columns:
            curves = [run.curves[name] for run in runs]
            best = [max(curve, key=lambda row: row[column]) for curve in curves]
            last = [curve[-1][column] for curve in curves]
            cost = [top[column] - end for top, end in zip(best, last, strict=True)]
            epochs = ", ".join(str(top["epoch"]) for top in best)
            line += [mean_text(last), epochs, mean_text(cost)]
        body.append(line)
    headers = ["Model"]
    for column in columns:
        title = HEADERS[column]
        headers += [f"{title}, last epoch", "best epochs", f"{title}, best − last"]
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))
