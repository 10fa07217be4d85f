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
from pathlib import Path
from typing import Any

from tabulate import tabulate

from embae_plugin.commands.crop_arguments import add_checkpoint_arguments, model_of
from embae_plugin.commands.gallery_search import Answer, search, search_page
from embae_plugin.data.camera_rules import crops_by_folder, find_images
from embae_plugin.data.embedding_files import SUFFIXES, EmbeddingTable, read_embeddings, texts
from embae_plugin.embedder import UNKNOWN, tell_unknown
from embae_plugin.evaluation.nearest import INDEXES
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.reid import ReID
from embae_plugin.runtime import log_to
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)
_SHOWN = 20  # queries in the table; files hold all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add = parser.add_argument
    add("--query", required=True, help="image, folder or embedding file")
    add("--gallery", required=True, help="a file of embae extract")
    add_checkpoint_arguments(parser, required=False)
    add("--top", type=int, default=10, help="hits of each query (default: 10)")
    add("--other-cameras-only", action="store_true",
        help="leave out crops of the query's own camera")
    add("--query-camera", default="", metavar="NAME",
        help="the camera of query images, as the model knows it; unknown for one that it has never "
        "seen")
    add("--index", default="flat", choices=INDEXES,
        help="flat (default) is exact; ivf: faster in millions")
    add("--images", default="", metavar="DIR",
        help="where the images of embedding files lie, if moved")
    add("--json", default="", metavar="FILE", help="write the hits as JSON")
    add("--html", default="", metavar="FILE", help="write a page with thumbnails")
    add("--verbose", action="store_true", help="log everything to the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with log_to(None, arguments.verbose):
        gallery = _read(arguments.gallery, arguments)
        query = _queries(arguments, gallery)
        only, index = arguments.other_cameras_only, arguments.index
        answers = search(query, gallery, arguments.top, only, index)
        text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
        about = {"gallery": f"{arguments.gallery} ({len(gallery):,} crops)",
                 "query": f"{arguments.query} ({len(query):,})"}
        if arguments.html:
            write_text(arguments.html, search_page(answers, query, about))
            logger.info("written to %s", arguments.html)
        if arguments.json not in ("", "-"):
            write_text(arguments.json, text)
            logger.info("written to %s", arguments.json)
        sys.stdout.write(text if arguments.json == "-" else f"{_table(answers)}\n")
    return 0


def _read(path: str, arguments: argparse.Namespace) -> EmbeddingTable:
    """Embeddings, whose images lie in ``--images`` by now, if that is given."""
    table = read_embeddings(path)
    if arguments.images:
        table.about["root"] = arguments.images
    return table


def _queries(arguments: argparse.Namespace, gallery: EmbeddingTable) -> EmbeddingTable:
    """The queries' embeddings: read from a file of `embae extract`, or computed.

    Raises:
        ValueError, FileNotFoundError: no such query, no checkpoint, another model's gallery, or a
            camera that the model does not know.
    """
    query, camera = Path(arguments.query), arguments.query_camera
    if query.suffix.lower() in SUFFIXES:
        table = _read(arguments.query, arguments)
        _check_model(table.about.get("model"), gallery, arguments.query)
        return table
    if not query.exists():
        raise FileNotFoundError(f"the query {query} does not exist")
    if not arguments.checkpoint:
        raise ValueError("--checkpoint is needed to embed query images: the gallery's model")
    reid = ReID(model_of(arguments), arguments.device)
    _check_model(state_fingerprint(reid.model), gallery, "the checkpoint")
    folder, names = (query, find_images(query)) if query.is_dir() else (query.parent, [query.name])
    cameras, named = [camera] * len(names), None
    if not camera and query.is_dir() and all(Path(name).parent != Path() for name in names):
        cameras = list(crops_by_folder(query).cameras)
    if reid.camera_names and any(cameras):  # others treat all cameras alike
        if not camera:
            tell_unknown(reid.model, cameras)
        known = (*reid.camera_names, camera)  # one that is named, and unknown, is refused
        named = [name if name in known else UNKNOWN for name in cameras]
    elif reid.camera_names:
        logger.warning("--query-camera names the camera of the query, if the model knows it")
    z = reid.embed([folder / name for name in names], named)
    return EmbeddingTable(texts(names), texts(cameras), z, None, {"root": str(folder.resolve())})


def _check_model(name: Any, gallery: EmbeddingTable, source: str) -> None:
    theirs = gallery.about.get("model")
    if name and theirs and name != theirs:
        raise ValueError(
            f"{source} and the gallery come from different models, whose embeddings cannot be "
            "compared: embed both with one (embae extract)"
        )


def _table(answers: Sequence[Answer]) -> str:
    """A line for each hit of the first queries."""
    body = []
    for answer in answers[:_SHOWN]:
        path = answer["query"]
        for hit in answer["hits"]:
            body.append(["" if hit["rank"] > 1 else path, hit["rank"], f"{hit['similarity']:.3f}",
                         hit["camid"], hit.get("pid", ""), hit["path"]])
        if not answer["hits"]:
            body.append([path, "–", "", "", "", "nothing found"])
    headers = ["query", "rank", "similarity", "camera", "pid", "path"]
    if not any(row[4] for row in body):
        body, headers = [row[:4] + row[5:] for row in body], headers[:4] + headers[5:]
    table = str(tabulate(body, headers, disable_numparse=True))
    more = len(answers) - _SHOWN
    return table + (f"\n… and {more} more queries; --json or --html for all" if more > 0 else "")
