"""k-reciprocal Jaccard distances (Zhong, Zheng, Cao and Li, CVPR 2017), kept sparse throughout.

Two crops are near when they have the same neighbours that also have them as neighbours, which
holds across cameras where plain distances do not. Nearly all pairs share no neighbour at all:
nothing here is N by N, so memory and time grow with N·k, but for the search of the k nearest
(:mod:`neighbours`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from embae_plugin.clustering.neighbours import BLOCK, nearest
from embae_plugin.evaluation.equal_rows import Ints

Floats = NDArray[np.float32]

_ROWS = 1 << 14  # rows of sparse products made at once
_CELLS = 1 << 17  # numbers held at once by the part that gains from the processor's cache
_PAIRS = 1 << 21  # crops that weigh the same member, compared at once: some 100 MB


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
    size, turned = np.asarray(half.sum(axis=1)).ravel(), half.T.tocsr()
    parts = []
    for start in range(0, len(index), _ROWS):
        sets = whole[start : start + _ROWS]
        shared = sets.multiply(sets @ turned).tocsr()  # (i, q): how many of q's half R(i) holds
        shared.data = (shared.data >= 2 / 3 * size[shared.indices]).astype(np.float32)
        shared.eliminate_zeros()
        parts.append((sets + shared @ half).tocsr())
    grown = vstack(parts, format="csr")
    grown.data[:] = 1
    return grown


def neighbour_weights(
    embeddings: torch.Tensor, index: torch.Tensor, k1: int, k2: int
) -> csr_matrix:
    """Each crop as weights over its expanded set, averaged over its k2 nearest; rows sum to 1."""
    numbers = index.cpu().numpy()
    sets = expanded_sets(numbers, k1)
    rows = np.repeat(np.arange(len(numbers)), np.diff(sets.indptr))
    cells = _CELLS if embeddings.device.type == "cpu" else BLOCK
    step, threads = max(1, cells // max(1, embeddings.shape[1])), torch.get_num_threads()
    torch.set_num_threads(1)  # several would spend their time waiting for one another
    try:
        for start in range(0, len(rows), step):
            pair = slice(start, start + step)
            difference = embeddings[rows[pair]] - embeddings[sets.indices[pair]]
            sets.data[pair] = torch.exp(-difference.square().sum(1)).cpu().numpy()
    finally:
        torch.set_num_threads(threads)
    total = np.asarray(sets.sum(axis=1)).ravel()
    sets.data /= total[rows]
    if k2 > 1:
        sets = (_pattern(numbers[:, :k2]) @ sets).tocsr()
        sets.data /= min(k2, len(numbers))
    return sets


def _places(weights: csr_matrix) -> tuple[csr_matrix, Ints]:
    """The transpose, and where each entry of ``weights`` lies in it."""
    numbers = np.arange(weights.nnz)
    numbered = csr_matrix((numbers, weights.indices, weights.indptr), shape=weights.shape)
    order = numbered.T.tocsr().data
    place = np.empty_like(order)
    place[order] = numbers
    return weights.T.tocsr(), place


def neighbours(embeddings: torch.Tensor, k1: int, k2: int, search: str) -> torch.Tensor:
    """As many nearest rows of each as :func:`jaccard_distances` compares."""
    return nearest(embeddings, min(len(embeddings), max(k1 + 1, k2)), search)


def _shared_weights(weights: csr_matrix) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Rows i, j > i and Σ_k min(w_ik, w_jk) of all pairs that weigh a member both, by blocks of i.

    Behind an entry's place in the transpose there are the later crops that weigh the same member.
    Each such pair of entries is a number, made of the two rows and of the bits of the smaller
    weight, which is positive: sorting brings together what is to be summed.
    """
    count, (columns, place) = weights.shape[0], _places(weights)
    length = columns.indptr[weights.indices + 1] - place - 1
    pairs = np.concatenate([[0], np.cumsum(length)])[weights.indptr]  # before those of each row
    start = 0
    while start < count:
        stop = int(np.searchsorted(pairs, pairs[start] + _PAIRS, "right")) - 1
        stop = min(max(start + 1, stop), start + max(1, (1 << 31) // count), count)
        entries = slice(weights.indptr[start], weights.indptr[stop])
        row = np.repeat(np.arange(stop - start), np.diff(weights.indptr[start : stop + 1]))
        many = length[entries]
        first = place[entries] + 1 - (np.cumsum(many) - many)
        partner = np.arange(many.sum()) + np.repeat(first, many)
        smaller = np.minimum(np.repeat(weights.data[entries], many), columns.data[partner])
        key = np.repeat(row * count, many) + columns.indices[partner]
        key = np.sort((key.astype(np.uint64) << 32) | smaller.view(np.uint32))
        cell, value = key >> 32, key.astype(np.uint32).view(np.float32)
        begins = np.flatnonzero(np.diff(cell, prepend=np.uint64(1 << 63)))
        if len(begins):
            shared = np.add.reduceat(value, begins, dtype=np.float64).astype(np.float32)
            i, j = np.divmod(cell[begins].astype(np.int64), count)
            yield i + start, j, shared
        start = stop


def jaccard_distances(
    embeddings: torch.Tensor, k1: int = 30, k2: int = 6, largest: float = 0.999,
    search: str = "exact", index: torch.Tensor | None = None,
) -> csr_matrix:
    """Jaccard distances 1 − |A ∩ B| / |A ∪ B| of weighted neighbour sets, of near pairs alone.

    Args:
        embeddings: (N, D), of length 1.
        k1: neighbours that must be mutual.
        k2: neighbours whose sets are averaged (query expansion); 1 for none.
        largest: pairs at this distance or beyond are left out; so are those that share no
            neighbour, whose distance is 1.
        search: how neighbours are found, see :func:`nearest`.
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
    index = neighbours(embeddings, k1, k2, search) if index is None else index
    return distances_of(neighbour_weights(embeddings, index, k1, k2), largest)


def distances_of(weights: csr_matrix, largest: float) -> csr_matrix:
    """:func:`jaccard_distances` of the rows of :func:`neighbour_weights`."""
    itself = np.arange(weights.shape[0])
    found = [(itself, itself, np.zeros(len(itself), dtype=np.float32))]
    for i, j, shared in _shared_weights(weights):
        distance = np.maximum(1 - shared / np.maximum(2 - shared, 1e-12), 0)
        near = distance < largest
        found += [(i[near], j[near], distance[near]), (j[near], i[near], distance[near])]
    row, column, numbers = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_matrix((numbers, (row, column)), shape=weights.shape)
