"""k-reciprocal Jaccard distances (Zhong, Zheng, Cao and Li, CVPR 2017), kept sparse throughout.

Two crops are near when they have the same neighbours that also have them as neighbours, which
holds across cameras where plain distances do not. Nearly all pairs share no neighbour at all:
nothing here is N by N, so memory and time grow with N·k, but for the search of the k nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from embae_plugin import distributed
from embae_plugin.evaluation.equal_rows import Ints, equal_rows

Floats = NDArray[np.float32]

_BLOCK = 1 << 24  # numbers held at once by the blockwise parts: 64 MiB of float32
_CELLS = 1 << 17  # numbers held at once by the parts that gain from the processor's cache


@torch.inference_mode()
def nearest(embeddings: torch.Tensor, k: int) -> torch.Tensor:
    """(N, k) indices of the ``k`` nearest rows of each row of (N, D) embeddings, itself first.

    By Euclidean distance; equal rows are equally near, and come in their order. ``k`` is N at
    most. Of several processes each looks for the neighbours of its share, in whole blocks.
    """
    rows = max(1, _BLOCK // max(1, len(embeddings)))
    squares, equal = embeddings.square().sum(1), equal_rows(embeddings)
    shares = distributed.shards(len(embeddings), rows)
    first, last = shares[distributed.rank()]
    index = [torch.zeros(0, k, dtype=torch.long, device=embeddings.device)]
    for start in range(first, last, rows):
        block, own = embeddings[start : start + rows], squares[start : start + rows]
        d = torch.addmm(squares, block, embeddings.T, alpha=-2).add_(own[:, None]).clamp_(min=0)
        equal.level(d).diagonal(start).fill_(-1)  # itself first, whatever its twins
        index.append(equal.nearest(d, k))
    return distributed.gather_rows(torch.cat(index), shares)


def _pattern(index: Ints) -> csr_matrix:
    """(N, N) with 1 in the columns that each row of (N, k) names."""
    rows, k = index.shape
    pointers = np.arange(0, rows * k + 1, k)
    ones = np.ones(rows * k, dtype=np.float32)
    return csr_matrix((ones, index.reshape(-1), pointers), shape=(rows, rows))


def reciprocal_sets(index: Ints, k: int) -> csr_matrix:
    """Who is among the k nearest of whom, both ways: a symmetric (N, N) 0/1 matrix."""
    near = _pattern(index[:, : k + 1])
    return near.multiply(near.T).tocsr()


def expanded_sets(index: Ints, k: int) -> csr_matrix:
    """The reciprocal sets R, each grown by its members' half-size sets it mostly holds.

    Member q's set of k/2 joins R(i) where R(i) holds at least two thirds of it.
    """
    whole, half = reciprocal_sets(index, k), reciprocal_sets(index, max(1, round(k / 2)))
    size = np.asarray(half.sum(axis=1)).ravel()
    shared = whole.multiply(whole @ half.T).tocsr()  # (i, q): how many of q's half set R(i) holds
    shared.data = (shared.data >= 2 / 3 * size[shared.indices]).astype(np.float32)
    shared.eliminate_zeros()
    grown = (whole + shared @ half).tocsr()
    grown.data[:] = 1
    return grown


def neighbour_weights(
    embeddings: torch.Tensor, index: torch.Tensor, k1: int, k2: int
) -> csr_matrix:
    """Each crop as weights over its expanded set, averaged over its k2 nearest; rows sum to 1."""
    numbers = index.cpu().numpy()
    sets = expanded_sets(numbers, k1)
    rows = np.repeat(np.arange(len(numbers)), np.diff(sets.indptr))
    cells = _CELLS if embeddings.device.type == "cpu" else _BLOCK
    step = max(1, cells // max(1, embeddings.shape[1]))
    for start in range(0, len(rows), step):
        pair = slice(start, start + step)
        difference = embeddings[rows[pair]] - embeddings[sets.indices[pair]]
        sets.data[pair] = torch.exp(-difference.square().sum(1)).cpu().numpy()
    total = np.asarray(sets.sum(axis=1)).ravel()
    sets.data /= total[rows]
    if k2 > 1:
        sets = (_pattern(numbers[:, :k2]) @ sets).tocsr()
        sets.data /= min(k2, len(numbers))
    return sets


def _shared_weight(
    weights: csr_matrix, columns: csr_matrix, place: Ints, start: int, stop: int
) -> Floats:
    """Σ_k min(w_ik, w_jk) of rows ``start`` to ``stop`` with each row j ≥ i: (stop − start, N).

    ``place`` is where each entry of ``weights`` lies in ``columns``, its transpose; behind it
    there are the later crops that weigh the same member. Pairs with j < i are left at 0.
    """
    count = weights.shape[0]
    entries = slice(weights.indptr[start], weights.indptr[stop])
    row = np.repeat(np.arange(stop - start), np.diff(weights.indptr[start : stop + 1]))
    length = columns.indptr[weights.indices[entries] + 1] - place[entries]
    ends = np.cumsum(length)
    partner = np.arange(ends[-1]) + np.repeat(place[entries] - (ends - length), length)
    shared = np.minimum(np.repeat(weights.data[entries], length), columns.data[partner])
    cell = np.repeat(row * count, length) + columns.indices[partner]
    sums = np.bincount(cell, weights=shared, minlength=(stop - start) * count)
    return sums.reshape(stop - start, count).astype(np.float32)


def _places(weights: csr_matrix) -> tuple[csr_matrix, Ints]:
    """The transpose, and where each entry of ``weights`` lies in it."""
    numbers = np.arange(weights.nnz)
    numbered = csr_matrix((numbers, weights.indices, weights.indptr), shape=weights.shape)
    order = numbered.T.tocsr().data
    place = np.empty_like(order)
    place[order] = numbers
    return weights.T.tocsr(), place


def neighbours(embeddings: torch.Tensor, k1: int, k2: int) -> torch.Tensor:
    """As many nearest rows of each as :func:`jaccard_distances` compares."""
    return nearest(embeddings, min(len(embeddings), max(k1 + 1, k2)))


def jaccard_distances(
    embeddings: torch.Tensor, k1: int = 30, k2: int = 6, largest: float = 0.999,
    index: torch.Tensor | None = None,
) -> csr_matrix:
    """Jaccard distances 1 − |A ∩ B| / |A ∪ B| of weighted neighbour sets, of near pairs alone.

    Args:
        embeddings: (N, D), of length 1.
        k1: neighbours that must be mutual.
        k2: neighbours whose sets are averaged (query expansion); 1 for none.
        largest: pairs at this distance or beyond are left out.
        index: :func:`neighbours`, if they are known already.

    Returns:
        (N, N) sparse; each row holds itself at distance 0 (stored), and who is nearer than
        ``largest``.

    Raises:
        ValueError: fewer than two rows, or k1 or k2 below 1.
    """
    count = len(embeddings)
    if embeddings.ndim != 2 or count < 2 or k1 < 1 or k2 < 1:
        raise ValueError(
            f"Jaccard distances of {tuple(embeddings.shape)} embeddings with k1 {k1} and k2 {k2}: "
            "there must be at least 2 rows, and k1 and k2 at least 1"
        )
    embeddings = embeddings.float()
    index = neighbours(embeddings, k1, k2) if index is None else index
    weights = neighbour_weights(embeddings, index, k1, k2)
    columns, place = _places(weights)
    rows = max(1, _CELLS // count)
    found: list[tuple[Ints, Ints, Floats]] = []
    for start in range(0, count, rows):
        stop = min(count, start + rows)
        shared = _shared_weight(weights, columns, place, start, stop)
        distance = np.maximum(1 - shared / np.maximum(2 - shared, 1e-12), 0)
        i, j = np.nonzero(np.triu(distance < largest, start + 1))
        found.append((i + start, j, distance[i, j]))
    i, j, near = (np.concatenate(column) for column in zip(*found, strict=True))
    itself = np.arange(count)
    row, column = np.concatenate([i, j, itself]), np.concatenate([j, i, itself])
    numbers = np.concatenate([near, near, np.zeros(count, dtype=np.float32)])
    return csr_matrix((numbers, (row, column)), shape=(count, count))
