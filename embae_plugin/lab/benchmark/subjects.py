"""The subjects by name, and a run over some of them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from embae_plugin.lab.benchmark import adaptation, features, growth, stages, training
from embae_plugin.lab.benchmark import ranking_speed as ranking
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.fresh import FreshProcess
from embae_plugin.lab.benchmark.machine import DEVICES, describe, describe_rates, present_devices
from embae_plugin.lab.benchmark.measure import Row, not_measured
from embae_plugin.lab.benchmark.sizes import Sizes

logger = logging.getLogger(__name__)

SUBJECTS: dict[str, Callable[[Context], list[Row]]] = {
    "ranking": ranking.measure,
    "growth": growth.measure,
    "training": training.measure,
    "features": features.measure,
    "stages": stages.measure,
    "adaptation": adaptation.measure,
}


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def choose(names: str) -> list[str]:
    """The subjects that a comma-separated list names, in the table's order; "" for all.

    Raises:
        ValueError: an unknown name.
    """
    asked = _listed(names)
    for name in asked:
        if name not in SUBJECTS:
            known = ", ".join(SUBJECTS)
            raise ValueError(f"--only: there is no subject {name!r}; there are {known}")
    return [name for name in SUBJECTS if not asked or name in asked]


def choose_devices(names: str) -> list[str]:
    """The devices that a comma-separated list names; "" for all.

    Raises:
        ValueError: an unknown name, or a device that this machine lacks.
    """
    asked = _listed(names)
    for name in asked:
        if name not in DEVICES:
            raise ValueError(f"--devices: no device {name!r}; there are {', '.join(DEVICES)}")
        if name not in present_devices():
            raise ValueError(
                f"--devices {names}: torch sees no {name} device here (`embae doctor` says why)"
            )
    return [name for name in DEVICES if not asked or name in asked]


def run_subjects(
    names: Sequence[str],
    sizes: Sizes,
    repeats: int,
    cython_dir: str = "",
    devices: Sequence[str] = DEVICES,
) -> tuple[list[Row], dict[str, str]]:
    """Measures subjects one after the other.

    Args:
        names: keys of :data:`SUBJECTS`.
        sizes: of the work.
        repeats: of each measurement.
        cython_dir, devices: see :class:`Context`.

    Returns:
        the table's rows, and what is to be known of the machine.
    """
    facts = describe()
    rows: list[Row] = []
    took: list[str] = []
    with tempfile.TemporaryDirectory(prefix="embae-benchmark-") as folder, FreshProcess() as stock:
        context = Context(sizes, repeats, Path(folder), stock, cython_dir, devices=devices)
        for name in names:
            logger.info("measuring %s", name)
            started = time.monotonic()
            for device in (one for one in present_devices() if one in devices):
                context.measure_rates(device)  # each time: something may have disturbed the last
            try:
                rows += SUBJECTS[name](context)
            except MemoryError as error:  # hours of other measurements shall not be lost
                rows.append(not_measured(name, name, "cpu", str(error)))
            took.append(f"{name} {time.monotonic() - started:,.0f} s")
        for device, rates in context.rates.items():
            facts[f"{device} at its best"] = describe_rates(rates)
    facts["of that"] = ", ".join(took)
    facts["sizes"] = f"{sizes.name}, {repeats} repeats"
    return rows, facts
