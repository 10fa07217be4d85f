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
import time
from pathlib import Path

from embae_plugin.evaluation.score_table import write_text
from embae_plugin.lab.benchmark.context import FULL, QUICK
from embae_plugin.lab.benchmark.machine import DEVICES, present_devices
from embae_plugin.lab.benchmark.subjects import SUBJECTS, chosen, run_subjects
from embae_plugin.lab.benchmark.table_page import as_json, markdown, text
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--quick", action="store_true", help="smaller sizes, stated in the table")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--devices", default="", metavar="A,B", help=f"of {', '.join(DEVICES)}")
    default = f"{FULL.repeats}, with --quick {QUICK.repeats}"
    parser.add_argument(
        "--repeats", type=int, default=0, help=f"of each measurement (default: {default})"
    )
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


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmark."""
    sizes = QUICK if arguments.quick else FULL
    names = chosen(arguments.only, list(SUBJECTS), "--only: there is no subject")
    devices = chosen(arguments.devices, DEVICES, "--devices: no device")
    absent = [name for name in devices if name not in present_devices()]
    if arguments.devices and absent:
        raise ValueError(f"--devices {arguments.devices}: torch sees no {absent[0]} device here "
                         "(`embae doctor` says why)")
    if arguments.repeats < 0:
        raise ValueError(f"--repeats {arguments.repeats}: must be at least 1")
    out = Path(arguments.out) if arguments.out else None
    if out is not None and out.suffix != ".md":
        raise ValueError(f"--out {out}: must be a name that ends in .md")
    started = time.monotonic()
    with log_to(None, arguments.verbose):
        rows, facts = run_subjects(
            names, sizes, arguments.repeats or sizes.repeats, arguments.cython_dir, devices
        )
        facts["took"] = f"{time.monotonic() - started:,.0f} s"
        sys.stdout.write(text(rows, facts) + "\n")
        if out is not None:
            command = command_of(arguments)
            write_text(out, markdown(rows, facts, command))
            write_text(out.with_suffix(".json"), as_json(rows, facts, command))
            logger.info("written to %s and %s", out, out.with_suffix(".json"))
    return 0
