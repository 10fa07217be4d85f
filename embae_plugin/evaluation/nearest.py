"""The nearest gallery embeddings of a query: exact, or through faiss where it is installed."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.evaluation.equal_rows import Ints, equal_rows

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
INDEXES = ("flat", "ivf")
_BLOCK_BYTES = 2**27
_LEAST_IVF = 2000  # gallery images, below which lists would hold next to nothing
_CELLS_READ = 0.1  # share of an inverted file's lists that a query looks into


def faiss_or_none() -> Any:
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
    """The ``top`` gallery rows most similar to each query.

    Args:
        query: (Q, d), gallery: (N, d), both of length 1.
        top: how many; fewer come where the gallery has fewer.
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
    if not top or not len(query):
        return np.zeros((len(query), 0), np.int64), np.zeros((len(query), 0), np.float32)
    pool = gallery if hidden is None else gallery[rows]
    equal = equal_rows(torch.from_numpy(pool))
    members: dict[int, list[int]] = {}  # of the first of equal rows, which is compared for all
    for row, first in zip(equal.rows.tolist(), equal.first[equal.group].tolist(), strict=True):
        members.setdefault(first, []).append(row)
    once = np.setdiff1d(np.arange(len(pool)), np.setdiff1d(equal.rows, equal.first))
    values, places = _compare(query, pool[once] if members else pool, top, index)
    places = np.where(places < 0, -1, once[places])
    found = np.full((len(query), top), -1, dtype=np.int64)
    similarity = np.full((len(query), top), -np.inf, dtype=np.float32)
    for n, line in enumerate(places.tolist()):
        groups = [members.get(row, [row])[:top] for row in line]
        some: Ints = np.concatenate(groups)[:top]
        found[n, : len(some)] = some
        similarity[n, : len(some)] = np.repeat(values[n], [len(group) for group in groups])[:top]
    order = np.lexsort((found, -similarity))
    found = np.take_along_axis(found, order, 1)
    return np.where(found < 0, -1, rows[found]), np.take_along_axis(similarity, order, 1)


def _compare(query: Floats, gallery: Floats, top: int, index: str) -> tuple[Floats, Ints]:
    """Similarities and rows of the ``top`` nearest, in any order among equally near ones."""
    top, faiss = min(top, len(gallery)), faiss_or_none()
    if faiss is not None:
        similarity, found = _index(faiss, np.ascontiguousarray(gallery), index).search(query, top)
        return similarity, found
    if index != "flat":
        logger.warning("--index %s needs faiss; comparing exactly instead", index)
    step = max(1, _BLOCK_BYTES // (4 * len(gallery)))
    z = torch.from_numpy(gallery).T
    best = [(some @ z).topk(top, dim=1) for some in torch.split(torch.from_numpy(query), step)]
    return (torch.cat([one.values for one in best]).numpy(),
            torch.cat([one.indices for one in best]).numpy())


def _index(faiss: Any, gallery: Floats, kind: str) -> Any:
    """A faiss index that holds the gallery."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    if kind == "ivf" and len(gallery) < _LEAST_IVF:
        logger.info("%d gallery images are too few for --index ivf; comparing exactly",
                    len(gallery))
    elif kind == "ivf":
        cells = int(4 * np.sqrt(len(gallery)))
        cells = min(cells, len(gallery) // 39)  # faiss wants 39 images for each to train on
        index = faiss.IndexIVFFlat(index, gallery.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.train(gallery)
        index.nprobe = max(1, round(_CELLS_READ * cells))
    index.add(gallery)
    return index
