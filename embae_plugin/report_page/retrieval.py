"""Ranked lists that are worth a reader's time, and how sure a mean over queries is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from embae_plugin.evaluation.equal_rows import equal_rows
from embae_plugin.evaluation.protocols import Protocol
from embae_plugin.report_page.pairing import Floats, Ints, Pair
from embae_plugin.report_page.projection import Doubles

_BLOCK = 256


class Entry(NamedTuple):
    """One place of a ranked list: a row of the pair, its distance and what it is.

    verdict: ``right``, ``wrong`` or ``ignored``; ``kept`` or ``new`` where nobody knows.
    """

    row: int
    distance: float
    verdict: str


class Ranked(NamedTuple):
    """One query with its nearest crops before and after, and notes that say how good they are."""

    query: int
    before: list[Entry]
    after: list[Entry]
    notes: tuple[str, ...]


class Group(NamedTuple):
    """Lists chosen by one rule."""

    title: str
    explanation: str
    lists: list[Ranked]


def nearest_crops(
    x: Floats, query: Ints, pool: Ints, apart: Ints, length: int
) -> tuple[Ints, Floats]:
    """(Q, length) rows and Euclidean distances of the crops nearest to each query.

    ``query`` and ``pool`` are rows of embeddings x (N, d); what is found differs from the query in
    ``apart`` (N,). Equal crops are equally far, and come in the pool's order. Where there are
    fewer, rows are −1.
    """
    gallery = torch.from_numpy(x[pool])
    squares, equal = gallery.square().sum(1), equal_rows(gallery)
    rows, near = [], []
    for start in range(0, len(query), _BLOCK):
        block = query[start : start + _BLOCK]
        q = torch.from_numpy(x[block])
        squared = q.square().sum(1, keepdim=True) + squares - 2 * q @ gallery.T
        distance = equal.level(squared).clamp_(min=0).sqrt_()
        distance[torch.from_numpy(apart[block][:, None] == apart[pool])] = torch.inf
        found = equal.nearest(distance, min(length, len(pool)))
        near.append(distance.gather(1, found).numpy())
        rows.append(np.where(np.isfinite(near[-1]), pool[found.numpy()], -1))
    return np.concatenate(rows), np.concatenate(near)


def ranked_list(pair: Pair, x: Floats, row: int, protocol: Protocol, length: int) -> list[Entry]:
    """The nearest gallery crops of one query, ignored ones among them but not the query itself.

    Of equal crops those of other people come first, as in the evaluator.
    """
    same = pair.pids[pair.gallery] == pair.pids[row]
    pool, itself = pair.gallery[np.argsort(same, kind="stable")], np.arange(len(pair))
    rows, near = (one[0] for one in nearest_crops(x, np.array([row]), pool, itself, length))
    pids, cameras = pair.pids, pair.cameras
    ignored = protocol.ignored(pids[[row]], pids[rows], cameras[[row]], cameras[rows])[0]
    verdicts = np.where(ignored, "ignored", np.where(pids[rows] == pids[row], "right", "wrong"))
    places = zip(rows.tolist(), near.tolist(), verdicts.tolist(), strict=True)
    return [Entry(*place) for place in places if place[0] >= 0]


def overlap(a: Ints, b: Ints) -> Doubles:
    """(Q,) share of the rows in a (Q, k) that are in the same line of b, too."""
    both = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] >= 0)
    counts = np.maximum((a >= 0).sum(1), 1)
    return np.asarray(both.any(2).sum(1) / counts, dtype=np.float64)


def pick(values: Doubles, people: Ints, count: int) -> list[int]:
    """Places of the largest ``values``, one for each of the people; NaNs are left out.

    Equal values come in the order of their places.
    """
    chosen: dict[int, int] = {}
    for place in np.argsort(-values, kind="stable").tolist():
        if not np.isnan(values[place]):
            chosen.setdefault(int(people[place]), place)
    return list(chosen.values())[:count]


def labelled_groups(
    pair: Pair, query: Ints, old: Doubles, new: Doubles, protocol: Protocol,
    count: int, length: int,
) -> list[Group]:
    """Best, worst and most changed queries under a protocol.

    ``old`` and ``new`` are the average precision of (Q,) ``query`` rows before and after; a group
    has ``count`` lists of ``length`` crops.
    """
    gain = new - old
    rules = (
        ("Most improved", "the largest gains of average precision", gain, gain > 0),
        ("Most worsened", "the largest losses of average precision", -gain, gain < 0),
        ("Best after adaptation", "the highest average precision", new, True),
        ("Worst after adaptation", "the lowest average precision", -new, True),
    )

    def ranked(place: int) -> Ranked:
        row = int(query[place])
        before, after = (ranked_list(pair, x, row, protocol, length)
                         for x in (pair.before, pair.after))
        notes = tuple(f"average precision {values[place]:.2f}" for values in (old, new))
        return Ranked(row, before, after, notes)

    groups = [
        Group(title, f"Queries with {text}, one for each identity.",
              [ranked(place) for place in pick(np.where(wanted, values, np.nan),
                                               pair.pids[query], count)])
        for title, text, values, wanted in rules
    ]
    return [group for group in groups if group.lists]


def unlabelled_groups(pair: Pair, query: Ints, count: int, length: int) -> list[Group]:
    """Crops whose neighbours on other cameras changed most, and least; none for one camera."""
    everyone = np.arange(len(pair))
    found = [nearest_crops(x, query, everyone, pair.cameras, length)
             for x in (pair.before, pair.after)]
    (old, _), (new, _) = found
    if not (old >= 0).any():
        return []
    kept = overlap(new, old)
    rules = (
        ("Most changed neighbours", "share the fewest neighbours before and after", 1 - kept),
        ("Least changed neighbours", "share the most neighbours before and after", kept),
    )

    def ranked(place: int) -> Ranked:
        before, after = (
            [Entry(row, distance, "kept" if row in other[place] else "new")
             for row, distance in zip(rows[place].tolist(), near[place].tolist(), strict=True)
             if row >= 0]
            for (rows, near), other in zip(found, (new, old), strict=True)
        )
        note = f"{kept[place]:.0%} of the neighbours stayed"
        return Ranked(int(query[place]), before, after, ("", note))

    return [
        Group(title, f"Crops that {text}; their nearest crops on other cameras.",
              [ranked(place) for place in pick(values, query, count)])
        for title, text, values in rules
    ]


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
    sums, counts = np.bincount(codes, values[kept]), np.bincount(codes)
    size = len(sums)
    weights = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    low, high = np.percentile((weights @ sums) / (weights @ counts), [2.5, 97.5])
    return float(low), float(high)
