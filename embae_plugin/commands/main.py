"""The console command ``embae VERB …``.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(arguments) -> int``,
and a line in :data:`VERBS`. Only the module of the verb asked for is imported, so that ``embae
doctor`` and ``embae --help`` work where torch or torchreid do not.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise

from embae_plugin import __version__
from embae_plugin.runtime import complain, json_lines, printable, tune_allocator

VERBS = {
    "train": "train on labelled sources and adapt to an unlabelled target",
    "adapt": "adapt a model to unlabelled crops of your own cameras",
    "extract": "write the embeddings of a folder of crops to a file",
    "search": "find the crops most similar to one or more queries",
    "evaluate": "score embeddings, or a model on a data set, by both protocols",
    "demo": "run the whole method on the built-in synthetic cameras",
    "reproduce": "repeat the paper's tables, published numbers compared with ours",
    "curves": "average runs that differ in the seed: scores, spreads, curves of adaptation",
    "ablate": "score a run's models with and without TTA and normalisation, by both AP rules",
    "benchmark": "measure speed and memory, compared with stock torchreid",
    "data": "check which data sets are complete, and fetch them",
    "models": "list the published models that can be used by name, and fetch them",
    "export": "write a model as one ONNX or TorchScript file, checked against the model",
    "report": "one HTML page: a target before and after adaptation",
    "status": "how far an interrupted or running job is, and what resumes it",
    "doctor": "check the installation, data and weights, and say how to fix what is broken",
}
SHARED_VERBS = ("train", "adapt", "extract")  # which torchrun may start
LAB_VERBS = ("reproduce", "curves", "ablate", "benchmark")
SILENT_VERBS = ("status", "doctor")  # which log nothing
LOG_FORMAT, FORMATS = "--log-format", ("text", "json")


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
        if verb not in (None, name):
            verbs.add_parser(name, help=text)
            continue
        try:
            room = "lab.commands" if name in LAB_VERBS else "commands"
            module = importlib.import_module(f"embae_plugin.{room}.{name}")
        except Exception as error:  # whatever a broken library raises
            reason = str(error) or type(error).__name__
            raise ImportError(f"`embae {name}` cannot start: {reason}") from error
        one = verbs.add_parser(name, help=text, description=module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(one)
        if name not in SILENT_VERBS:
            one.add_argument(LOG_FORMAT, choices=FORMATS, default=FORMATS[0],
                             help="of what is logged to stderr; json: an object a line")
        one.set_defaults(run=module.run)
    return parser


def _log_format(words: list[str]) -> tuple[list[str], bool]:
    """The words without ``--log-format``, which may stand anywhere, and whether it is JSON."""
    pairs = [*pairwise(words)]
    for form in FORMATS:
        if (LOG_FORMAT, form) in pairs:
            at = pairs.index((LOG_FORMAT, form))
            return words[:at] + words[at + 2 :], form == "json"
        if f"{LOG_FORMAT}={form}" in words:
            return [w for w in words if w != f"{LOG_FORMAT}={form}"], form == "json"
    return words, False


def resume_command(words: Sequence[str]) -> str:
    """The shell command that runs ``embae`` with these words in this folder again."""
    count, local = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    how = ["embae"]
    if count != "1":
        how = ["torchrun", f"--nproc_per_node={local}", "-m", "embae_plugin.commands.main"]
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join([*how, *words])}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the process's exit code.

    0 done; 1 a check of the verb's own failed; 2 the user can fix it (the message says how);
    130 stopped by Ctrl-C or SIGTERM.
    """
    words, as_json = _log_format(sys.argv[1:] if argv is None else list(argv))
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        verb = next((word for word in words if not word.startswith("-")), "")
        for flag, value in pairwise(words):
            if flag == "--plugin":  # its methods are in the help and among the choices
                from embae_plugin.methods.registry import load_plugin

                load_plugin(value)
        arguments = build_parser(verb).parse_args(words)
        if count != "1" and arguments.verb not in SHARED_VERBS:  # copies would write the same files
            raise ValueError(f"{arguments.verb} runs in one process: start it without torchrun")
        arguments.command = resume_command(words)
        tune_allocator()
        with json_lines(as_json):
            return int(arguments.run(arguments))
    except KeyboardInterrupt as error:
        if rank == "0":  # the others are stopped together with it
            complain(f"embae: {error or 'stopped'}", as_json)
        return 130
    except ImportError as error:
        said = f"{error} (`embae doctor` checks the installation)"
    except MemoryError as error:
        said = f"there is not enough memory: {error}"
    except (ValueError, OSError, FloatingPointError) as error:
        said = str(error)
    which = "" if count == "1" else f" (rank {rank} of {count})"
    complain(f"embae{which}: {printable(said)}", as_json)
    return 2


if __name__ == "__main__":
    sys.exit(main())
