"""The subjects by name, and a run over some of them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from embae_plugin.lab.benchmark.context import Context, Sizes
from embae_plugin.lab.benchmark.fresh import FreshProcess
from embae_plugin.lab.benchmark.machine import DEVICES, describe, present_devices
from embae_plugin.lab.benchmark.measure import Row, not_measured
from embae_plugin.lab.benchmark.ranking_speed import growth_rows, ranking_rows
from embae_plugin.lab.benchmark.stages import adaptation_rows, stage_rows
from embae_plugin.lab.benchmark.training_speed import feature_rows, training_rows

logger = logging.getLogger(__name__)


class Subject(NamedTuple):
    """One subject: its title, what is missing where it cannot be measured, and its rows."""

    title: str
    what: str
    rows: Callable[[Context, str], list[Row]]


SUBJECTS = {
    "ranking": Subject("Ranking at Market size", "ranking", ranking_rows),
    "growth": Subject("Ranking with large galleries", "ranking, large galleries", growth_rows),
    "training": Subject("Stage 1 training", "stage 1", training_rows),
    "features": Subject("Feature extraction", "files to embeddings", feature_rows),
    "stages": Subject("Stages 2 and 3 on cached features", "stages 2 and 3", stage_rows),
    "adaptation": Subject("A target, end to end", "all of it", adaptation_rows),
}


def chosen(names: str, known: Sequence[str], refusal: str) -> list[str]:
    """Those of ``known`` that a comma-separated list names, in their order; all for "".

    Raises:
        ValueError: an unknown name; begins with ``refusal``.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            raise ValueError(f"{refusal} {name!r}; there are {', '.join(known)}")
    return [name for name in known if not asked or name in asked]


def run_subjects(
    names: Sequence[str], sizes: Sizes, repeats: int, cython_dir: str = "",
    devices: Sequence[str] = DEVICES,
) -> tuple[list[Row], dict[str, str]]:
    """Measures subjects by name on each device; one that is not there has a row that says so.

    Returns:
        the table's rows, and what is to be known of the machine.
    """
    facts, rows, took = describe(), list[Row](), []
    with tempfile.TemporaryDirectory(prefix="embae-benchmark-") as folder, FreshProcess() as stock:
        context = Context(sizes, repeats, Path(folder), stock, cython_dir)
        for name in names:
            logger.info("measuring %s", name)
            started = time.monotonic()
            for device in devices:
                rows += _measure(context, name, device)
            took.append(f"{name} {time.monotonic() - started:,.0f} s")
        for device, rates in context.rates.items():
            facts[f"{device} at its best"] = str(rates)
    facts["of that"] = ", ".join(took)
    facts["sizes"] = f"{sizes.name}, {repeats} repeats"
    return rows, facts


def _measure(context: Context, name: str, device: str) -> list[Row]:
    subject = SUBJECTS[name]
    if device not in present_devices():
        why = f"no GPU on this machine; on one, `embae benchmark --only {name}` does it"
        return [not_measured(name, subject.what, device, why)]
    context.measure_rates(device)  # each time: something may have disturbed the last
    try:
        return subject.rows(context, device)
    except MemoryError as error:  # hours of other measurements shall not be lost
        return [not_measured(name, subject.what, device, str(error))]
