"""The console command ``embae VERB …``.

A verb is a module with ``HELP``, ``add_arguments(parser)`` and ``run(arguments) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from embae_plugin import __version__
from embae_plugin.engine.loop import Interrupted
from embae_plugin.runtime import tune_allocator

VERBS = ("train", "demo", "reproduce", "ablate", "benchmark", "data")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb."""
    parser = argparse.ArgumentParser(
        prog="embae", description="Adapts a person Re-ID model to new cameras without labels."
    )
    parser.add_argument("--version", action="version", version=f"embae {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f"embae_plugin.cli.{name}")
        verb = verbs.add_parser(name, help=module.HELP, description=module.__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the process's exit code.

    0 done; 2 the user can mend it (the message says how); 130 stopped by Ctrl-C or SIGTERM.
    """
    arguments = build_parser().parse_args(argv)
    tune_allocator()
    try:
        return int(arguments.run(arguments))
    except Interrupted as error:
        print(f"embae: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("embae: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"embae: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
