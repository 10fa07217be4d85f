"""The crops most similar to queries, and a page that shows them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from tqdm import tqdm

from embae_plugin.data.embedding_files import EmbeddingTable
from embae_plugin.evaluation.nearest import nearest, unit_length
from embae_plugin.evaluation.thumbnails import jpeg_address

logger = logging.getLogger(__name__)

Answer = dict[str, Any]  # a query with its hits, as it is written to JSON

_SIZE = (2 * 96, 160)  # of a thumbnail at most, in pixels
_MOST = 500  # queries on a page; a browser opens no more with pleasure
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>embae search</title><style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1b1b1b; background: #fff; }
h1 { font-size: 1.2rem; } section { border-top: 1px solid #ddd; padding: .8rem 0; }
.row { display: flex; gap: .6rem; overflow-x: auto; align-items: flex-start; }
figure { margin: 0; flex: 0 0 auto; width: 96px; font-size: 11px; overflow-wrap: anywhere; }
figure.query { padding-right: .6rem; border-right: 3px solid #1b6ac9; }
img, .none { width: 96px; height: 160px; object-fit: contain; background: #f2f2f2; }
.none { display: flex; align-items: center; justify-content: center; color: #666; }
b { display: block; } @media (prefers-color-scheme: dark) {
body { color: #e8e8e8; background: #181818; } img, .none { background: #2a2a2a; } }
</style></head><body><h1>Most similar crops</h1>
<p>{% for name, value in about.items() %}{{ " · " if not loop.first }}{{ name }}: {{ value }}{%
endfor %}. Numbers are cosine similarities (1 = the same embedding).</p>
{% for row in rows %}<section><div class="row">{% for file, picture, title, lines in row %}
<figure class="{{ "query" if loop.first else "hit" }}">{% if picture
%}<img src="{{ picture }}" alt="{{ file.name }}" title="{{ file }}">{% else
%}<div class="none">no image</div>{% endif %}<figcaption><b>{{ title }}</b>{% for line in lines
if line %}{{ line }}<br>{% endfor %}</figcaption></figure>{% endfor %}</div></section>
{% endfor %}</body></html>
"""


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
        raise ValueError(
            f"the queries have {query.embeddings.shape[1]} dimensions and the gallery "
            f"{gallery.embeddings.shape[1]}: embed both with one model"
        )
    for name, table in (("queries", query), ("gallery", gallery)):
        broken = np.flatnonzero(~np.isfinite(table.embeddings).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{len(broken)} of {len(table)} embeddings of the {name} hold NaN or infinite "
                f"values, that of {table.paths[broken[0]]} first: embed them again"
            )
    if other_cameras_only and not all(query.cameras):
        raise ValueError(
            "--other-cameras-only needs the query's camera: name it with --query-camera, or put "
            "queries in a folder for each camera"
        )
    z, g = unit_length(query.embeddings), unit_length(gallery.embeddings)
    # One more than asked for, since a query may find itself.
    rows = np.full((len(z), min(top + 1, len(g))), -1, dtype=np.int64)
    similarity = np.zeros(rows.shape, dtype=np.float32)
    for camera in sorted(set(query.cameras.tolist())) if other_cameras_only else [None]:
        mine = slice(None) if camera is None else np.flatnonzero(query.cameras == camera)
        hidden = None if camera is None else gallery.cameras == camera
        found, values = nearest(z[mine], g, top + 1, hidden, index)
        rows[mine, : found.shape[1]], similarity[mine, : found.shape[1]] = found, values
    answers: list[Answer] = []
    for number, camera in enumerate(query.cameras.tolist()):
        itself = query.file(number).absolute()
        hits: list[dict[str, Any]] = []
        for row, value in zip(rows[number].tolist(), similarity[number].tolist(), strict=True):
            file = gallery.file(row)
            if row < 0 or file.absolute() == itself or len(hits) == top:
                continue
            pid = "" if gallery.pids is None else str(gallery.pids[row])
            hits.append({
                "rank": len(hits) + 1, "path": str(gallery.paths[row]), "file": str(file),
                "camid": str(gallery.cameras[row]), **({"pid": pid} if pid else {}),
                "similarity": round(value, 6),
            })
        answers.append({"query": str(query.paths[number]), "camid": camera, "hits": hits})
    return answers


def search_page(answers: Sequence[Answer], query: EmbeddingTable, about: Mapping[str, Any]) -> str:
    """Answers of :func:`search` as one HTML file with thumbnails that needs nothing else.

    Args:
        about: what was searched, one value each.
    """
    if len(answers) > _MOST:
        logger.warning("the page shows the first %d of %d queries", _MOST, len(answers))
        about = {**about, "shown": f"the first {_MOST} queries"}
    rows = []
    shown = tqdm(answers[:_MOST], "thumbnails", unit="query", disable=None)
    for number, answer in enumerate(shown):
        file = query.file(number)
        row = [(file, jpeg_address(file, *_SIZE), "query", [answer["camid"], answer["query"]])]
        for hit in answer["hits"]:
            file, pid = Path(hit["file"]), f"pid {hit['pid']}" if "pid" in hit else ""
            title = f"{hit['rank']}: {hit['similarity']:.3f}"
            lines = [hit["camid"], pid, hit["path"]]
            row.append((file, jpeg_address(file, *_SIZE), title, lines))
        rows.append(row)
    missing = sum(not picture for row in rows for _, picture, *_ in row)
    if missing:
        logger.warning("%d image(s) could not be read for their thumbnails; if they have moved, "
                       "name their folder with --images", missing)
    return Environment(autoescape=True).from_string(_PAGE).render(rows=rows, about=about)
