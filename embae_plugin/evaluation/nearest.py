"""The nearest gallery embeddings of a query: exact, or through faiss where it is installed."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.evaluation.equal_rows import Ints, equal_rows
from embae_plugin.progress import Progress, progress

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
INDEXES = ("flat", "ivf")
_BLOCK_BYTES = 2**27
_LEAST_IVF = 2000  # gallery images, below which lists would hold next to nothing
_CELLS_READ = 0.1  # share of an inverted file's lists that a query looks into


def faiss_or_none() -> ModuleType | None:
    """The faiss module, or None with a word on how to get it."""
    try:
        return importlib.import_module("faiss")
    except ImportError:
        logger.info("faiss is not installed, so the gallery is compared image by image (exact; "
                    "pip install faiss-cpu makes large galleries faster)")
        return None


def unit_length(embeddings: Floats) -> Floats:
    """Rows scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.ascontiguousarray(embeddings / np.maximum(length, 1e-12), dtype=np.float32)


def nearest(
    query: Floats, gallery: Floats, top: int,
    hidden: NDArray[np.bool_] | None = None, index: str = "flat",
) -> tuple[Ints, Floats]:
    """The ``top`` gallery rows most similar to each query, or all where there are fewer.

    Args:
        query: (Q, d), gallery: (N, d), both of length 1.
        hidden: (N,) gallery rows that are not to be found.
        index: ``flat`` compares with every row; ``ivf`` (faiss) only with the tenth of it that
            lies in the query's neighbourhood, so that some may be missed.

    Returns:
        rows (Q, top) of the gallery, −1 where nothing more was found, and their cosine
        similarities, in falling order. Equal gallery rows are equally similar, and equally
        similar ones come in the order of their rows.
    """
    rows = np.arange(len(gallery)) if hidden is None else np.flatnonzero(~hidden)
    top = min(top, len(rows))
    found = np.full((len(query), top), -1, dtype=np.int64)
    similarity = np.full((len(query), top), -np.inf, dtype=np.float32)
    if not found.size:
        return found, similarity
    pool = gallery if hidden is None else gallery[rows]
    equal = equal_rows(torch.from_numpy(pool))
    members: dict[int, list[int]] = {}  # of the first of equal rows, which is compared for all
    for row, first in zip(equal.rows.tolist(), equal.first[equal.group].tolist(), strict=True):
        members.setdefault(first, []).append(row)
    once = np.setdiff1d(np.arange(len(pool)), np.setdiff1d(equal.rows, equal.first))
    values, places = _compare(query, pool[once] if members else pool, top, index)
    for n, line in enumerate(np.where(places < 0, -1, once[places]).tolist()):
        groups = [members.get(row, [row])[:top] for row in line]
        some: Ints = np.concatenate(groups)[:top]
        found[n, : len(some)] = some
        similarity[n, : len(some)] = np.repeat(values[n], [len(group) for group in groups])[:top]
    order = np.lexsort((found, -similarity))
    found = np.take_along_axis(found, order, 1)
    return np.where(found < 0, -1, rows[found]), np.take_along_axis(similarity, order, 1)


def _compare(query: Floats, gallery: Floats, top: int, kind: str) -> tuple[Floats, Ints]:
    """Similarities and rows of the ``top`` nearest, in any order among equally near ones."""
    count, faiss = len(gallery), faiss_or_none()
    if faiss is None:
        if kind != "flat":
            logger.warning("--index %s needs faiss; comparing exactly instead", kind)
        blocks = torch.split(torch.from_numpy(query), max(1, _BLOCK_BYTES // (4 * count)))
        z = torch.from_numpy(gallery).T
        best = [(some @ z).topk(min(top, count), dim=1)
                for some in progress(blocks, "search", unit="block", delay=2.0)]
        similarity, found = (torch.cat(parts).numpy() for parts in zip(*best, strict=True))
        return similarity, found
    with Progress("search", delay=2.0):
        return _by_faiss(faiss, query, gallery, top, kind)


def _by_faiss(
    faiss: ModuleType, query: Floats, gallery: Floats, top: int, kind: str
) -> tuple[Floats, Ints]:
    count, width = gallery.shape
    index = faiss.IndexFlatIP(width)
    if kind == "ivf" and count < _LEAST_IVF:
        logger.info("%d gallery images are too few for --index ivf; comparing exactly", count)
    elif kind == "ivf":
        index = inverted_file(faiss, gallery, _CELLS_READ)
    if not index.ntotal:
        index.add(np.ascontiguousarray(gallery))
    similarity, found = index.search(query, min(top, count))
    return similarity, found


def inverted_file(faiss: Any, rows: Floats, read: float) -> Any:
    """faiss's index of (N, d) rows of length 1 that looks into the share ``read`` of its lists."""
    count, width = rows.shape
    cells = max(1, min(int(4 * np.sqrt(count)), count // 39))  # faiss wants 39 for each to learn by
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 64  # more would cost much time, and gain little
    index.train(np.ascontiguousarray(rows))
    index.add(np.ascontiguousarray(rows))
    index.nprobe = max(1, round(read * cells))
    return index
