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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from tabulate import tabulate

from embae_plugin.commands.shared_arguments import add_checkpoint_arguments, model_of
from embae_plugin.data.camera_rules import crops_by_folder, find_images
from embae_plugin.data.embedding_files import SUFFIXES, EmbeddingTable, read_embeddings, texts
from embae_plugin.embedder import UNKNOWN, tell_unknown
from embae_plugin.evaluation.nearest import INDEXES, nearest, unit_length
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.evaluation.thumbnails import jpeg_address
from embae_plugin.progress import progress
from embae_plugin.reid import ReID
from embae_plugin.runtime import log_to
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

Answer = dict[str, Any]  # a query with its hits, as it is written to JSON

_SHOWN = 20  # queries in the table; files hold all
_SIZE = (2 * 96, 160)  # of a thumbnail at most, in pixels
_MOST = 500  # queries on a page; a browser opens no more with pleasure


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
        answers = search(query, gallery, arguments.top, arguments.other_cameras_only,
                         arguments.index)
        text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
        if arguments.html:
            about = {"gallery": f"{arguments.gallery} ({len(gallery):,} crops)",
                     "query": f"{arguments.query} ({len(query):,})"}
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
    """The queries' embeddings: read from a file of `embae extract`, or computed."""
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


def _check_model(name: str | None, gallery: EmbeddingTable, source: str) -> None:
    theirs = gallery.about.get("model")
    if name and theirs and name != theirs:
        raise ValueError(f"{source} and the gallery come from different models, whose embeddings "
                         "cannot be compared: embed both with one (embae extract)")


def _table(answers: Sequence[Answer]) -> str:
    """A line for each hit of the first queries."""
    body = []
    for answer in answers[:_SHOWN]:
        for hit in answer["hits"]:
            body.append([answer["query"] if hit["rank"] == 1 else "", hit["rank"],
                         f"{hit['similarity']:.3f}", hit["camid"], hit.get("pid", ""), hit["path"]])
        if not answer["hits"]:
            body.append([answer["query"], "–", "", "", "", "nothing found"])
    headers = ["query", "rank", "similarity", "camera", "pid", "path"]
    if not any(row[4] for row in body):
        body, headers = [row[:4] + row[5:] for row in body], headers[:4] + headers[5:]
    more = len(answers) - _SHOWN
    note = f"\n… and {more} more queries; --json or --html for all" if more > 0 else ""
    return str(tabulate(body, headers, disable_numparse=True)) + note


def search(
    query: EmbeddingTable, gallery: EmbeddingTable, top: int = 10,
    other_cameras_only: bool = False, index: str = "flat",
) -> list[Answer]:
    """The most similar gallery crops of each query, the query's own file excepted.

    Args:
        other_cameras_only: leave out crops of the query's own camera.
        index: see :func:`nearest`.

    Returns:
        for each query its ``query`` (path), ``camid`` ("" where it is not known) and ``hits``,
        best first: ``rank``, ``path``, ``file``, ``camid``, ``pid`` if known, ``similarity``.

    Raises:
        ValueError: embeddings of different width, NaN or infinite, no gallery, or a query of
            unknown camera where other cameras are asked for.
    """
    if top < 1:
        raise ValueError(f"--top {top}: at least 1")
    if not len(query) or not len(gallery):
        raise ValueError("there is nothing to search: query or gallery is empty")
    if query.embeddings.shape[1] != gallery.embeddings.shape[1]:
        raise ValueError(f"the queries have {query.embeddings.shape[1]} dimensions and the gallery "
                         f"{gallery.embeddings.shape[1]}: embed both with one model")
    for name, table in (("queries", query), ("gallery", gallery)):
        broken = np.flatnonzero(~np.isfinite(table.embeddings).all(axis=1))
        if len(broken):
            raise ValueError(f"{len(broken)} of {len(table)} embeddings of the {name} hold NaN or "
                             f"infinite values, that of {table.paths[broken[0]]} first: embed them "
                             "again")
    if other_cameras_only and not all(query.cameras):
        raise ValueError("--other-cameras-only needs the query's camera: name it with "
                         "--query-camera, or put queries in a folder for each camera")
    z, g = unit_length(query.embeddings), unit_length(gallery.embeddings)
    answers: dict[int, Answer] = {}
    for camera in np.unique(query.cameras) if other_cameras_only else [None]:
        mine, hidden = np.arange(len(z)), None
        if other_cameras_only:
            mine, hidden = np.flatnonzero(query.cameras == camera), gallery.cameras == camera
        # One more than asked for, since a query may find itself.
        found, values = nearest(z[mine], g, top + 1, hidden, index)
        for number, *near in zip(mine.tolist(), found.tolist(), values.tolist(), strict=True):
            itself = query.file(number).absolute()
            hits = [(row, value) for row, value in zip(*near, strict=True)
                    if row >= 0 and gallery.file(row).absolute() != itself]
            answers[number] = {
                "query": str(query.paths[number]), "camid": str(query.cameras[number]),
                "hits": [_hit(gallery, *hit, rank) for rank, hit in enumerate(hits[:top], 1)],
            }
    return [answers[number] for number in range(len(z))]


def _hit(gallery: EmbeddingTable, row: int, similarity: float, rank: int) -> dict[str, Any]:
    pid = "" if gallery.pids is None else str(gallery.pids[row])
    return {
        "rank": rank, "path": str(gallery.paths[row]), "file": str(gallery.file(row)),
        "camid": str(gallery.cameras[row]), **({"pid": pid} if pid else {}),
        "similarity": round(similarity, 6),
    }


def search_page(answers: Sequence[Answer], query: EmbeddingTable, about: Mapping[str, Any]) -> str:
    """Answers of :func:`search` as one HTML file with thumbnails; ``about`` says of what."""
    if len(answers) > _MOST:
        logger.warning("the page shows the first %d of %d queries", _MOST, len(answers))
        about = {**about, "shown": f"the first {_MOST} queries"}
    rows = []
    shown = progress(answers[:_MOST], "thumbnails", unit="query")
    for number, answer in enumerate(shown):
        row = [(query.file(number), "query", [answer["camid"], answer["query"]])]
        for hit in answer["hits"]:
            pid = f"pid {hit['pid']}" if "pid" in hit else ""
            title = f"{hit['rank']}: {hit['similarity']:.3f}"
            row.append((Path(hit["file"]), title, [hit["camid"], pid, hit["path"]]))
        rows.append([(file, jpeg_address(file, *_SIZE), *more) for file, *more in row])
    missing = sum(not picture for row in rows for _, picture, *_ in row)
    if missing:
        logger.warning("%d image(s) could not be read for their thumbnails; if they have moved, "
                       "name their folder with --images", missing)
    pages = Environment(loader=PackageLoader("embae_plugin.commands"), autoescape=True)
    return pages.get_template("search.html").render(rows=rows, about=about)
