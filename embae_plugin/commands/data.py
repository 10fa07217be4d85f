"""Tells which data sets are complete, and fetches those that can be fetched.

  embae data check --root reid-data                  every data set
  embae data check market1501 viper --root reid-data
  embae data get market1501 --root reid-data
  embae data get viper --root reid-data --url VIPeR.v1.0.zip   (a file, an address, a Drive id)

`check` counts images, identities and cameras against the published numbers and says how to get
what is missing; it only reads. `get` fetches and unpacks under a hidden name, checks the content
in the same way, and never overwrites anything. A few data sets can't be fetched at all: `get`
says whom to ask, and with --url it takes the archive that they gave you.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from embae_plugin.data.checking import CHECKED, Check, check_all, table
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.download import get_dataset
from embae_plugin.runtime import log_to

_HEX = {"md5": 32, "sha256": 64}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two actions and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|get")
    check = actions.add_parser(
        "check", help="what is complete, and what is missing",
        description="Counts images, identities and cameras; writes nothing. "
        "Exit code: 0 if every data set asked for is complete (a built-in one that is yet to be "
        "drawn counts as complete), 1 if not, 2 for a mistake in the command.",
    )
    check.add_argument("names", nargs="*", help=f"which ones (default: all): {', '.join(CHECKED)}")
    check.add_argument("--root", required=True, help="folder with the data sets")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    get = actions.add_parser(
        "get", help="fetch one data set",
        description="Fetches an archive, checks it and puts it in its place below the root.",
    )
    names = [name for name in CHECKED if name not in SPECS]
    get.add_argument("name", help=f"one of {', '.join(names)}")
    get.add_argument("--root", required=True, help="folder with the data sets")
    get.add_argument("--url", default="", help="your copy: a file, an address, or a Drive id")
    digest = get.add_mutually_exclusive_group()
    for kind, digits in _HEX.items():
        text = f"what the archive must have, {digits} hex digits"
        digest.add_argument(f"--{kind}", default="", metavar="HEX", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Checks or fetches; see ``--help`` for the exit code."""
    with log_to():
        text = ""
        if arguments.action == "get":
            digest = _digest(arguments)
            checks = [get_dataset(arguments.name, arguments.root, arguments.url, digest)]
        else:
            checks = check_all(arguments.root, arguments.names)
            text = json.dumps(list(map(_plain, checks)), indent=1) if arguments.json else ""
        sys.stdout.write(f"{text or table(checks, arguments.root)}\n")
    return 0 if all(check.usable for check in checks) else 1


def _digest(arguments: argparse.Namespace) -> str:
    """ "md5:…", "sha256:…" or nothing."""
    for kind, digits in _HEX.items():
        value = getattr(arguments, kind).strip().lower()
        if value and (len(value) != digits or set(value) - set("0123456789abcdef")):
            raise ValueError(f"--{kind} {value}: expected {digits} hexadecimal digits")
        if value:
            return f"{kind}:{value}"
    return ""


def _plain(check: Check) -> dict[str, object]:
    counts = {
        key: {part: counted._asdict() for part, counted in getattr(check, key).items()}
        for key in ("found", "published")
    }
    return {**asdict(check), **counts, "usable": check.usable}
