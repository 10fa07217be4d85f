"""The console command ``embae VERB …``.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(arguments) -> int``,
and a line in :data:`VERBS`. Only the module of the verb asked for is imported, so that ``embae
doctor`` and ``embae --help`` work where torch or torchreid do not.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from embae_plugin import __version__
from embae_plugin.runtime import tune_allocator

VERBS = {
    "train": "train on labelled sources and adapt to an unlabelled target",
    "demo": "run the whole method on the built-in synthetic cameras",
    "reproduce": "repeat the paper's tables, published numbers beside ours",
    "ablate": "score a run's models with and without TTA and normalisation, by both AP rules",
    "benchmark": "measure speed and memory beside stock torchreid",
    "data": "check which data sets are complete, and fetch them",
    "doctor": "check the installation, data and weights, and say how to mend what is broken",
}


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser with every verb; with the arguments of ``verb`` alone if one is named.

    Raises:
        ImportError: a part that the verb needs is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="embae", description="Adapts a person Re-ID model to new cameras without labels."
    )
    parser.add_argument("--version", action="version", version=f"embae {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        if verb is not None and name != verb:
            verbs.add_parser(name, help=text)
            continue
        module = importlib.import_module(f"embae_plugin.cli.{name}")
        one = verbs.add_parser(name, help=text, description=module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the process's exit code.

    0 done; 1 a check of the verb's own failed; 2 the user can mend it (the message says how);
    130 stopped by Ctrl-C or SIGTERM.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        verb = next((word for word in words if not word.startswith("-")), "")
        arguments = build_parser(verb).parse_args(words)
        tune_allocator()
        return int(arguments.run(arguments))
    except KeyboardInterrupt as error:
        print(f"embae: {error or 'stopped'}", file=sys.stderr)
        return 130
    except ImportError as error:
        print(f"embae: {error} (`embae doctor` checks the installation)", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"embae: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
