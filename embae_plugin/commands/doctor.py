"""Checks the installation, the data and the weights; says for each fault what fixes it.

  embae doctor
  embae doctor --root reid-data --checkpoint adapted/ --cache-dir cache

Every line is OK, missing or broken, followed by the one command that fixes it. It runs where
torch or torchreid do not. Exit code: 0 if all works that is required (what you name by a flag
is), 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from embae_plugin.doctor import BROKEN, Finding, guarded, installation, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the doctor."""
    for flag, kind, text in (
        ("--root", "DIR", "a folder with data sets"),
        ("--checkpoint", "FILE", "a checkpoint, or a folder of `embae adapt`"),
        ("--weights", "FILE", "a file of ImageNet weights"),
        ("--cache-dir", "DIR", "a folder for embae.cache_dir"),
    ):
        parser.add_argument(flag, action="append", default=[], metavar=kind, help=text)
    parser.add_argument("--trunk", default="", help="the trunk that --weights are for")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(arguments: argparse.Namespace) -> int:
    """Checks everything; see ``--help`` for the exit code."""
    findings = list(examine(arguments))
    as_json = json.dumps([asdict(one) for one in findings], indent=1)
    sys.stdout.write(f"{as_json if arguments.json else shown(findings)}\n")
    return int(any(finding.fatal for finding in findings))


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Every finding, packages first."""
    packages = list(installation.check_packages())
    yield from packages
    broken = [finding.name for finding in packages if finding.fatal]
    for name, folder in installation.cache_folders().items():
        yield installation.check_writable(name, folder, required=False)
    for path in arguments.cache_dir:
        yield installation.check_writable("cache folder", Path(path))
    if "torch" not in broken:
        yield guarded("GPU", installation.check_gpu)
    if broken:
        for what in (*arguments.root, *arguments.checkpoint, *arguments.weights):
            yield Finding(what, BROKEN, f"not checked before this is fixed: {', '.join(broken)}")
        return
    for root in arguments.root:
        yield from installation.check_data(root)
    for path in arguments.checkpoint:
        yield guarded(f"checkpoint {path}", partial(installation.check_checkpoint, path))
    for path in arguments.weights:
        check = partial(installation.check_weights, path, arguments.trunk)
        yield guarded(f"weights {path}", check)
