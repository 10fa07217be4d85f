"""Embeddings on a plane, before and after, drawn so that eyes can follow."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
from numpy.typing import NDArray

from embae_plugin.progress import Progress
from embae_plugin.report_page.pairing import UNKNOWN, Floats, Ints, Pair

Doubles = NDArray[np.float64]
Points = Doubles  # (n, 2)
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


def project(x: Floats, method: str, seed: int) -> Points:
    """(n, d) embeddings to (n, 2), by a method of :data:`NAMES`; less than 5 crops by ``pca``.

    Raises:
        ImportError: UMAP was asked for and is not installed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    with Progress(f"map by {NAMES[method]}", delay=2.0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = PCA(min(2, *x.shape), svd_solver="full").fit_transform(x.astype(np.float64))
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
        if method == "umap" and len(x) >= 5:
            try:
                umap = importlib.import_module("umap")
            except ImportError as error:
                raise ImportError("--map umap needs umap-learn: pip install umap-learn") from error
            neighbours = min(15, len(x) - 1)
            flat = umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(x)
        elif method == "tsne" and len(x) >= 5:
            spread = flat[:, 0].std() or 1.0  # which TSNE's own start from PCA divides by, too
            flat = TSNE(perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed,
                        init=flat / spread * 1e-4, n_jobs=1).fit_transform(x)
    return np.asarray(flat, dtype=np.float64)


def aligned(points: Points, reference: Points) -> Points:
    """``points`` turned and mirrored, not bent, to lie as near to ``reference`` as they can.

    Neither map's directions mean anything.
    """
    from scipy.linalg import orthogonal_procrustes

    centred, target = points - points.mean(0), reference - reference.mean(0)
    turn, _ = orthogonal_procrustes(centred, target)
    return np.asarray(centred @ turn)
