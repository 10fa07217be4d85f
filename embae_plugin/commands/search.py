"""Finds the crops most similar to one or more queries.

  embae search --query person.jpg --gallery embeddings.npz --checkpoint adapted --top 10
  embae search --query queries/ --gallery embeddings.npz --checkpoint adapted --html found.html
  embae search --query embeddings.npz --gallery embeddings.npz --other-cameras-only --json -

The gallery is a file of `embae extract`. A query is an image, a folder of images, or such a file
(which needs no checkpoint). Prints a table; --json and --html write files ("-" prints the JSON).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from tabulate import tabulate

from embae_plugin.commands.crop_arguments import add_checkpoint_arguments, model_of
from embae_plugin.commands.gallery_search import Answer, load_queries, read_moved, search
from embae_plugin.commands.search_page import search_page
from embae_plugin.evaluation.nearest import INDEXES
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.reid import ReID
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)
_SHOWN = 20  # queries in the table; files hold all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--query", required=True, help="image, folder or embedding file")
    parser.add_argument("--gallery", required=True, help="a file of embae extract")
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument("--top", type=int, default=10, help="hits of each query (default: 10)")
    parser.add_argument("--other-cameras-only", action="store_true",
                        help="leave out crops of the query's own camera")  # fmt: skip
    parser.add_argument("--query-camera", default="", metavar="NAME",
                        help="the camera of query images, as the model knows it; unknown for one "
                             "that it has never seen")  # fmt: skip
    parser.add_argument("--index", default="flat", choices=INDEXES,
                        help="flat (default) is exact; ivf: faster in millions")  # fmt: skip
    parser.add_argument("--images", default="", metavar="DIR",
                        help="where the images of embedding files lie, if moved")  # fmt: skip
    parser.add_argument("--json", default="", metavar="FILE", help="write the hits as JSON")
    parser.add_argument("--html", default="", metavar="FILE", help="write a page with thumbnails")
    parser.add_argument("--verbose", action="store_true", help="log everything to the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with log_to(None, arguments.verbose):
        gallery = read_moved(arguments.gallery, arguments.images)
        query = load_queries(
            arguments.query,
            (lambda: ReID(model_of(arguments), arguments.device)) if arguments.checkpoint else None,
            arguments.query_camera, gallery, arguments.images,
        )  # fmt: skip
        answers = search(
            query, gallery, arguments.top, arguments.other_cameras_only, arguments.index
        )
        text = json.dumps([answer.as_dict() for answer in answers], indent=1, ensure_ascii=False)
        if arguments.html:
            about = {"gallery": f"{arguments.gallery} ({len(gallery):,} crops)",
                     "query": f"{arguments.query} ({len(query):,})"}  # fmt: skip
            write_text(arguments.html, search_page(answers, about))
            logger.info("written to %s", arguments.html)
        if arguments.json == "-":
            sys.stdout.write(f"{text}\n")
        elif arguments.json:
            write_text(arguments.json, text + "\n")
            logger.info("written to %s", arguments.json)
        if arguments.json != "-":
            sys.stdout.write(f"{hits_table(answers)}\n")
    return 0


def hits_table(answers: Sequence[Answer]) -> str:
    """A line for each hit of the first queries."""
    body = []
    for answer in answers[:_SHOWN]:
        for rank, hit in enumerate(answer.hits, 1):
            body.append([answer.path if rank == 1 else "", rank, f"{hit.similarity:.3f}",
                         hit.camera, hit.pid, hit.path])  # fmt: skip
        if not answer.hits:
            body.append([answer.path, "–", "", "", "", "nothing found"])
    headers = ["query", "rank", "similarity", "camera", "pid", "path"]
    if not any(row[4] for row in body):
        body, headers = [row[:4] + row[5:] for row in body], headers[:4] + headers[5:]
    table = str(tabulate(body, headers=headers, disable_numparse=True))
    more = len(answers) - _SHOWN
    return table + (f"\n… and {more} more queries; --json or --html for all" if more > 0 else "")
