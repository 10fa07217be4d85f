"""How each query fares, and the ranked lists that show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.evaluation.equal_rows import equal_rows
from embae_plugin.evaluation.protocols import Protocol
from embae_plugin.report_page.pairing import UNKNOWN, Floats, Ints, Pair

Doubles = NDArray[np.float64]
_BLOCK = 256


@dataclass(frozen=True)
class PerQuery:
    """One model under one protocol; NaN for a query without a positive.

    Attributes:
        precision: (Q,) average precision.
        first: (Q,) rank of the first positive.
    """

    precision: Doubles
    first: Doubles


@dataclass(frozen=True)
class Entry:
    """One place of a ranked list: a row of the pair, its distance and what it is.

    verdict: ``right``, ``wrong`` or ``ignored``; ``kept`` or ``new`` where nobody knows.
    """

    row: int
    distance: float
    verdict: str


def distances(x: Floats, query: Ints, gallery: Ints) -> Floats:
    """(Q, G) Euclidean distances, equal to equal crops; a crop's to itself is infinite."""
    q, g = x[query], x[gallery]
    squared = (q * q).sum(1)[:, None] + (g * g).sum(1)[None] - 2 * (q @ g.T)
    equal_rows(torch.from_numpy(g)).level(torch.from_numpy(squared))
    out: Floats = np.sqrt(np.maximum(squared, 0))
    out[query[:, None] == gallery[None, :]] = np.inf
    return out


def per_query(pair: Pair, x: Floats, query: Ints, protocol: Protocol) -> PerQuery:
    """Average precision and first hit of each query among the pair's gallery.

    Of equally far crops those of other people come first, as in the evaluator.
    """
    parts = [_block(pair, x, query[i : i + _BLOCK], protocol)
             for i in range(0, len(query), _BLOCK)]  # fmt: skip
    return PerQuery(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _block(pair: Pair, x: Floats, query: Ints, protocol: Protocol) -> tuple[Doubles, Doubles]:
    gallery = pair.gallery
    same, ignored = _same_and_ignored(pair, query, gallery, protocol)
    order = np.lexsort((same, distances(x, query, gallery)))
    counts = ~np.take_along_axis(ignored, order, 1)
    hits = np.take_along_axis(same, order, 1) & counts
    rank, found = counts.cumsum(1), hits.cumsum(1)
    total = hits.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(hits, found / rank, 0.0).sum(1) / total
    first = np.where(total > 0, np.where(hits, rank, np.inf).min(1), np.nan)
    return precision, first


def _same_and_ignored(
    pair: Pair, query: Ints, gallery: Ints, protocol: Protocol
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    q_pids, g_pids = pair.pids[query], pair.pids[gallery]
    same = (q_pids[:, None] == g_pids[None, :]) & (q_pids[:, None] != UNKNOWN)
    ignored = protocol.ignored(q_pids, g_pids, pair.cameras[query], pair.cameras[gallery])
    return same, ignored | (query[:, None] == gallery[None, :])


def ranked_list(pair: Pair, x: Floats, row: int, protocol: Protocol, length: int) -> list[Entry]:
    """The nearest gallery crops of one query, ignored ones among them but not the query itself."""
    query, gallery = np.array([row]), pair.gallery
    distance = distances(x, query, gallery)[0]
    same, ignored = (mask[0] for mask in _same_and_ignored(pair, query, gallery, protocol))
    order = np.lexsort((same, distance))[:length]
    return [
        Entry(int(gallery[i]), float(distance[i]),
              "ignored" if ignored[i] else "right" if same[i] else "wrong")
        for i in order
        if np.isfinite(distance[i])
    ]  # fmt: skip


def neighbours(pair: Pair, x: Floats, query: Ints, length: int) -> tuple[Ints, Floats]:
    """(Q, length) rows and distances of each crop's nearest crops on other cameras.

    Where there are fewer, rows are −1.
    """
    everything = np.arange(len(pair))
    rows, near = [], []
    for start in range(0, len(query), _BLOCK):
        block = query[start : start + _BLOCK]
        distance = distances(x, block, everything)
        distance[pair.cameras[block][:, None] == pair.cameras[None, :]] = np.inf
        order = np.argsort(distance, axis=1, kind="stable")[:, :length]
        found = np.take_along_axis(distance, order, 1)
        rows.append(np.where(np.isfinite(found), order, -1))
        near.append(found)
    return np.concatenate(rows), np.concatenate(near)


def overlap(a: Ints, b: Ints) -> Doubles:
    """(Q,) share of the rows in a (Q, k) that are in the same line of b, too."""
    both = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] >= 0)
    counts = np.maximum((a >= 0).sum(1), 1)
    return np.asarray(both.any(2).sum(1) / counts, dtype=np.float64)


def mean_interval(
    values: Doubles, groups: Ints, rng: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of the mean of ``values``, NaNs left out, by a bootstrap over ``groups``.

    Whole identities are drawn (Efron and Tibshirani, 1993, for clustered data), as the queries
    of one person stand or fall together.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return float("nan"), float("nan")
    _, codes = np.unique(groups[kept], return_inverse=True)
    sums, counts = np.bincount(codes, values[kept]), np.bincount(codes).astype(np.float64)
    size = len(sums)
    weights = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
