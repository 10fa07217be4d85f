"""Embeddings on a plane, before and after, drawn so that eyes can follow."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings

import numpy as np
from numpy.typing import NDArray

from embae_plugin.report_page.pairing import UNKNOWN, Floats, Ints, Pair

logger = logging.getLogger(__name__)

Points = NDArray[np.float64]
METHODS = ("tsne", "umap", "pca")
NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal components"}
_EACH = 30  # crops of one highlighted identity at most


def choose(pair: Pair, limit: int, people: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows to draw, sorted, and the identities to colour.

    Identities seen by at least two cameras are drawn at random and come with their crops (30 at
    most); the rest of ``limit`` are crops drawn at random out of all.
    """
    chosen: list[int] = []
    coloured: list[int] = []
    codes = np.unique(pair.pids[pair.pids != UNKNOWN])
    for code in rng.permutation(codes):
        rows = np.flatnonzero(pair.pids == code)
        if len(np.unique(pair.cameras[rows])) < 2:
            continue
        rows = rng.permutation(rows)[:_EACH]
        if len(coloured) == people or len(chosen) + len(rows) > limit:
            break
        coloured.append(int(code))
        chosen += rows.tolist()
    rest = np.setdiff1d(np.arange(len(pair)), chosen)
    more = rng.permutation(rest)[: max(0, limit - len(chosen))]
    return np.sort(np.concatenate([np.array(chosen, dtype=np.int64), more])), np.array(coloured)


def available(method: str) -> str:
    """``method``, or ``pca`` with a warning where scikit-learn is not installed.

    Raises:
        ValueError: an unknown method.
        ImportError: UMAP was asked for and is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"map {method!r}: must be one of {', '.join(METHODS)}")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ImportError("--map umap needs umap-learn: pip install umap-learn")
    if method == "tsne" and importlib.util.find_spec("sklearn") is None:
        logger.warning("scikit-learn is not installed (pip install scikit-learn): the map shows "
                       "principal components instead of t-SNE")  # fmt: skip
        return "pca"
    return method


def project(x: Floats, method: str, seed: int) -> Points:
    """(n, d) embeddings to (n, 2), by a method of :data:`METHODS`."""
    components = _pca(x)
    if method == "pca" or len(x) < 5:
        return components
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == "umap":
            umap = importlib.import_module("umap")
            neighbours = min(15, len(x) - 1)
            flat = umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(x)
        else:
            manifold = importlib.import_module("sklearn.manifold")
            spread = components[:, :1].std() or 1.0
            tsne = manifold.TSNE(perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed,
                                 init=components / spread * 1e-4, n_jobs=1)  # fmt: skip
            flat = tsne.fit_transform(x)
    return np.asarray(flat, dtype=np.float64)


def _pca(x: Floats) -> Points:
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    # the sign of a component is the library's whim
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    flat = centred @ (axes * np.where(signs == 0, 1, signs)[:, None]).T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def aligned(points: Points, reference: Points) -> Points:
    """``points`` turned and mirrored, not bent, to lie as near to ``reference`` as they can.

    The orthogonal Procrustes problem (Schönemann, 1966); neither map's directions mean anything.
    """
    centred, target = points - points.mean(0), reference - reference.mean(0)
    u, _, v = np.linalg.svd(centred.T @ target)
    return np.asarray(centred @ u @ v)
