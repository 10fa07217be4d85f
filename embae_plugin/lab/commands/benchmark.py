"""Measures this package beside stock torchreid, on the same data, and prints ratios.

  embae benchmark                                    everything at full size, on CPU and GPU
  embae benchmark --quick                            smaller sizes: two minutes on two cores
  embae benchmark --only ranking,growth --repeats 5
  embae benchmark --out docs/benchmarks.md           also writes the tables, and JSON beside them

Run it on a machine that does nothing else. torchreid's evaluator in Cython is measured too where
it is built: installed with torchreid from GitHub, or in the folder that --cython-dir names.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from embae_plugin.evaluation.score_table import write_text
from embae_plugin.lab.benchmark.context import FULL, QUICK, Context, Sizes
from embae_plugin.lab.benchmark.machine import (
    DEVICES,
    FreshProcess,
    describe,
    measure_rates,
    present_devices,
)
from embae_plugin.lab.benchmark.measure import Row, as_json, markdown, not_measured, text
from embae_plugin.lab.benchmark.ranking_speed import growth_rows, ranking_rows
from embae_plugin.lab.benchmark.stages import adaptation_rows, stage_rows
from embae_plugin.lab.benchmark.training_speed import feature_rows, training_rows
from embae_plugin.runtime import log_to
from embae_plugin.training.train_step import has_fast_bf16

logger = logging.getLogger(__name__)

# What is missing where a subject cannot be measured, and what measures it.
SUBJECTS: dict[str, tuple[str, Callable[[Context, str], list[Row]]]] = {
    "ranking": ("ranking", ranking_rows),
    "growth": ("ranking, large galleries", growth_rows),
    "training": ("stage 1", training_rows),
    "features": ("files to embeddings", feature_rows),
    "stages": ("stages 2 and 3", stage_rows),
    "adaptation": ("all of it", adaptation_rows),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--quick", action="store_true", help="smaller sizes, stated in the table")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--devices", default="", metavar="A,B", help=f"of {', '.join(DEVICES)}")
    parser.add_argument("--repeats", type=int, default=0, help="of each measurement (default: "
                        f"{FULL.repeats}, with --quick {QUICK.repeats})")
    parser.add_argument("--cython-dir", default="", metavar="DIR",
                        help="folder with torchreid's rank_cy extension, built")
    parser.add_argument("--out", default="", metavar="FILE.md",
                        help="write the tables there, and FILE.json beside it")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def command_of(arguments: argparse.Namespace) -> str:
    """The command line, without what only says where files are."""
    parts = ["embae", "benchmark", *["--quick"] * arguments.quick]
    for flag in ("only", "devices", "repeats"):
        value = getattr(arguments, flag)
        parts += [f"--{flag}", str(value)] if value else []
    return shlex.join([*parts, *["--cython-dir", "DIR"] * bool(arguments.cython_dir)])


def _chosen(names: str, known: Sequence[str], refusal: str) -> list[str]:
    """Those of ``known`` that a comma-separated list names, in their order; all for ""."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            raise ValueError(f"{refusal} {name!r}; there are {', '.join(known)}")
    return [name for name in known if not asked or name in asked]


def run_subjects(
    names: Sequence[str], sizes: Sizes, repeats: int, cython_dir: str = "",
    devices: Sequence[str] = DEVICES,
) -> tuple[list[Row], dict[str, str]]:
    """The rows of subjects on each device, and what is to be known of the machine."""
    facts, rows, took = describe(), list[Row](), []
    with tempfile.TemporaryDirectory(prefix="embae-benchmark-") as folder, FreshProcess() as stock:
        context = Context(sizes, repeats, Path(folder), stock, cython_dir)
        for name in names:
            logger.info("measuring %s", name)
            started = time.monotonic()
            for device in devices:
                rows += _measure(context, name, device)
            took.append(f"{name} {time.monotonic() - started:,.0f} s")
    facts |= {f"{device} at its best": str(rates) for device, rates in context.rates.items()}
    return rows, {**facts, "of that": ", ".join(took), "sizes": f"{sizes.name}, {repeats} repeats"}


def _measure(context: Context, name: str, device: str) -> list[Row]:
    what, rows = SUBJECTS[name]
    if device not in present_devices():
        why = f"no GPU on this machine; on one, `embae benchmark --only {name}` does it"
        return [not_measured(name, what, device, why)]
    # Each time, and the better is kept: something may have disturbed the last.
    rates = measure_rates(device, has_fast_bf16(torch.device(device)))
    context.rates[device] = rates.best(context.rates.get(device, rates))
    try:
        return rows(context, device)
    except MemoryError as error:  # hours of other measurements shall not be lost
        return [not_measured(name, what, device, str(error))]


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark."""
    sizes, started = QUICK if arguments.quick else FULL, time.monotonic()
    names = _chosen(arguments.only, list(SUBJECTS), "--only: there is no subject")
    devices = _chosen(arguments.devices, DEVICES, "--devices: no device")
    absent = [name for name in devices if name not in present_devices()]
    if arguments.devices and absent:
        raise ValueError(f"--devices {arguments.devices}: torch sees no {absent[0]} device here "
                         "(`embae doctor` says why)")
    if arguments.repeats < 0:
        raise ValueError(f"--repeats {arguments.repeats}: must be at least 1")
    out = Path(arguments.out)
    if arguments.out and out.suffix != ".md":
        raise ValueError(f"--out {out}: must be a name that ends in .md")
    with log_to(None, arguments.verbose):
        rows, facts = run_subjects(
            names, sizes, arguments.repeats or sizes.repeats, arguments.cython_dir, devices
        )
        facts["took"] = f"{time.monotonic() - started:,.0f} s"
        sys.stdout.write(text(rows, facts) + "\n")
        if arguments.out:
            command = command_of(arguments)
            write_text(out, markdown(rows, facts, command))
            write_text(out.with_suffix(".json"), as_json(rows, facts, command))
            logger.info("written to %s and %s", out, out.with_suffix(".json"))
    return 0
