"""Checks the installation, the data and the weights; says for each fault what mends it.

  embae doctor
  embae doctor --root reid-data --checkpoint adapted/ --cache-dir cache

Every line is OK, missing or broken, followed by the one command that mends it. It runs where
torch or torchreid do not. Exit code: 0 if all works that is required (what you name by a flag
is), 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from embae_plugin.doctor import surroundings
from embae_plugin.doctor.findings import BROKEN, Finding, guarded, shown, verdict
from embae_plugin.doctor.packages import check_packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the doctor."""
    parser.add_argument("--root", action="append", default=[], help="a folder with data sets")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="FILE",
                        help="a checkpoint, or a folder of `embae adapt`")  # fmt: skip
    parser.add_argument("--weights", action="append", default=[], metavar="FILE",
                        help="a file of ImageNet weights")  # fmt: skip
    parser.add_argument("--trunk", default="", help="the trunk that --weights are for")
    parser.add_argument("--cache-dir", action="append", default=[], metavar="DIR",
                        help="a folder for embae.cache_dir")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(arguments: argparse.Namespace) -> int:
    """Checks everything; see ``--help`` for the exit code."""
    findings = list(examine(arguments))
    if arguments.json:
        sys.stdout.write(json.dumps([one.as_json() for one in findings], indent=1) + "\n")
    else:
        sys.stdout.write(f"{shown(findings)}\n\n{verdict(findings)}\n")
    return int(any(finding.fatal for finding in findings))


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Every finding, packages first."""
    broken = []
    for finding in check_packages():
        broken += [finding.name] if finding.fatal else []
        yield finding
    yield from _folders(arguments.cache_dir)
    if "torch" not in broken:
        yield guarded("GPU", surroundings.check_gpu)
    if broken:
        for what in (*arguments.root, *arguments.checkpoint, *arguments.weights):
            yield Finding(what, BROKEN, f"not checked before this is mended: {', '.join(broken)}")
        return
    for root in arguments.root:
        yield from surroundings.check_data(root)
    for path in arguments.checkpoint:
        check = partial(surroundings.check_checkpoint, path)
        yield guarded(f"checkpoint {path}", check)
    for path in arguments.weights:
        check = partial(surroundings.check_weights, path, arguments.trunk)
        yield guarded(f"weights {path}", check)


def _folders(named: list[str]) -> Iterator[Finding]:
    for name, folder in surroundings.cache_folders().items():
        yield surroundings.check_writable(name, folder, required=False)
    for folder_name in named:
        yield surroundings.check_writable("cache folder", Path(folder_name))


