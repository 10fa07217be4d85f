"""Everything the page shows, as plain values: what a template has only to lay out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.evaluation.change import Change, measure_change
from embae_plugin.evaluation.protocols import PROTOCOLS
from embae_plugin.report_page import projection
from embae_plugin.report_page.pairing import UNKNOWN, Floats, Ints, Pair
from embae_plugin.report_page.retrieval import (
    Group,
    labelled_groups,
    mean_interval,
    unlabelled_groups,
)

RANKS = (1, 5, 10)
_CMC = 20
_PAIRS = 100_000  # distances in a histogram at most
_PEOPLE = 10  # identities coloured in a map at most


@dataclass(frozen=True)
class Settings:
    """What a user may choose."""

    title: str = "Before and after adaptation"
    seed: int = 0  # of every sample drawn
    map_method: str = "tsne"  # or umap, pca
    map_limit: int = 1000  # crops in a map at most
    queries: int = 2000  # looked at one by one at most (the score table has all of them)
    lists: int = 4  # ranked lists in a group
    length: int = 10  # crops in a list

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # what scikit-learn takes
            raise ValueError(f"seed of a report: {self.seed} is not from 0 to {2**32 - 1}")
        if self.map_method not in projection.NAMES:
            methods = ", ".join(projection.NAMES)
            raise ValueError(f"map {self.map_method!r} of a report: must be one of {methods}")
        for name in ("map_limit", "queries", "lists", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a report: {getattr(self, name)} is not at least 1")


class ScoreLine(NamedTuple):
    """One line of the score table, fractions; ``low`` to ``high``: 95 % interval of the change."""

    protocol: str
    score: str
    before: float
    after: float
    low: float
    high: float


class Map(NamedTuple):
    """Sampled crops on a plane, twice."""

    rows: Ints
    people: Ints
    before: projection.Points
    after: projection.Points


@dataclass
class Content:
    """The page's content; parts without data are empty."""

    pair: Pair
    settings: Settings
    map: Map  # of a sample
    change: Change
    # of sampled pairs: before/after -> name of the group -> values
    distances: dict[str, dict[str, Floats]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)  # of ranked lists
    scores: list[ScoreLine] = field(default_factory=list)
    curves: dict[str, tuple[Scores, Scores]] = field(default_factory=dict)  # of each protocol


def gather(pair: Pair, settings: Settings = Settings()) -> Content:
    """Computes everything; the same for the same arguments.

    Raises:
        ImportError: see :func:`embae_plugin.report_page.projection.project`.
    """
    drawn = _map(pair, settings)
    before, after = torch.from_numpy(pair.before), torch.from_numpy(pair.after)
    change = measure_change(before, after, pair.cameras, seed=settings.seed)
    content = Content(pair, settings, drawn, change)
    pairs = _pairs(pair, np.random.default_rng([settings.seed, 1]))
    for when, x in (("before", pair.before), ("after", pair.after)):
        content.distances[when] = {name: np.linalg.norm(x[a] - x[b], axis=1)
                                   for name, (a, b) in pairs.items() if len(a)}
    if pair.labelled:
        _score(content)
    if not content.groups:
        rows = _some(len(pair), settings)
        content.groups = unlabelled_groups(pair, rows, settings.lists, settings.length)
    return content


def _some(count: int, settings: Settings) -> Ints:
    """Which of so many queries are looked at one by one, drawn at random, ascending."""
    rng = np.random.default_rng([settings.seed, 2])
    return np.sort(rng.permutation(count)[: settings.queries])


def _score(content: Content) -> None:
    """The table, the curves and the ranked lists of labelled crops."""
    pair, settings, q, g = content.pair, content.settings, content.pair.query, content.pair.gallery
    ids = pair.pids[q], pair.pids[g], pair.cameras[q], pair.cameras[g]
    before, after = (evaluate_embeddings(x[q], x[g], *ids, max_rank=_CMC)
                     for x in (pair.before, pair.after))
    sample = _some(len(q), settings)
    for name, protocol in PROTOCOLS.items():
        if not before[name].queries:
            continue
        old, new = content.curves[name] = before[name], after[name]
        table = [(f"Rank-{k}", old.rank(k), new.rank(k), _reached(new, k) - _reached(old, k))
                 for k in RANKS]
        table.append(("mAP", old.mAP, new.mAP, new.precision - old.precision))
        for score, first, last, gain in table:
            rng = np.random.default_rng([settings.seed, 3])
            interval = mean_interval(gain[sample], pair.pids[q[sample]], rng)
            content.scores.append(ScoreLine(name, score, first, last, *interval))
        if not content.groups:
            content.groups = labelled_groups(
                pair, q[sample], old.precision[sample], new.precision[sample], protocol,
                settings.lists, settings.length,
            )


def _reached(scores: Scores, rank: int) -> projection.Doubles:
    """(Q,) 1 where a query has a hit up to a rank, 0 where it has none, NaN for a dropped one."""
    return np.where(np.isnan(scores.first_rank), np.nan, scores.first_rank <= rank)


def _map(pair: Pair, settings: Settings) -> Map:
    rng = np.random.default_rng([settings.seed, 0])
    rows, people = projection.choose(pair, settings.map_limit, _PEOPLE, rng)
    before, after = (projection.project(x[rows], settings.map_method, settings.seed)
                     for x in (pair.before, pair.after))
    return Map(rows, people, before, projection.aligned(after, before))


def _pairs(pair: Pair, rng: np.random.Generator) -> dict[str, tuple[Ints, Ints]]:
    """Two kinds of pairs of crops, drawn at random.

    One person on two cameras, and two persons on two cameras; without identities, of one camera
    and of two.
    """
    if not pair.labelled:
        a, b = rng.integers(0, len(pair), (2, 4 * _PAIRS))
        same = pair.cameras[a] == pair.cameras[b]
        return {"same camera": _once(a[same], b[same]),
                "different cameras": _once(a[~same], b[~same])}
    rows = np.flatnonzero(pair.pids != UNKNOWN)
    rows = rows[np.argsort(pair.pids[rows], kind="stable")]
    drawn = rng.integers(0, len(rows), 4 * _PAIRS)
    first, end = (np.searchsorted(pair.pids[rows], pair.pids[rows[drawn]], side=side)
                  for side in ("left", "right"))
    mate = first + (rng.random(len(drawn)) * (end - first)).astype(np.int64)
    a, b, c = rows[drawn], rows[mate], rows[rng.permutation(drawn)]
    apart = pair.cameras[a] != pair.cameras[b]
    others = (pair.cameras[a] != pair.cameras[c]) & (pair.pids[a] != pair.pids[c])
    return {"same person": _once(a[apart], b[apart]),
            "different people": _once(a[others], c[others])}


def _once(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Each unordered pair of two different rows once, in the order drawn; not too many."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, place = np.unique(low * (high.max(initial=0) + 1) + high, return_index=True)
    place = np.sort(place[low[place] != high[place]])[:_PAIRS]
    return low[place], high[place]
