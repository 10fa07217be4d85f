"""Everything the page shows, as plain values: what a template has only to lay out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.evaluation.change import Change, measure_change
from embae_plugin.evaluation.protocols import PROTOCOLS
from embae_plugin.report_page import projection
from embae_plugin.report_page.pairing import UNKNOWN, Floats, Ints, Pair
from embae_plugin.report_page.retrieval import PerQuery, mean_interval, per_query
from embae_plugin.report_page.selection import Group, labelled_groups, unlabelled_groups

logger = logging.getLogger(__name__)

RANKS = (1, 5, 10)
_CMC = 20
_PAIRS = 100_000  # distances in a histogram at most


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        title: of the page.
        seed: of every sample drawn.
        map_method: ``tsne``, ``umap`` or ``pca``.
        map_limit: crops in a map at most.
        people: identities coloured in a map at most.
        queries: queries looked at one by one at most (the score table has all of them).
        lists: ranked lists in a group.
        length: crops in a list.
    """

    title: str = "Before and after adaptation"
    seed: int = 0
    map_method: str = "tsne"
    map_limit: int = 1000
    people: int = 10
    queries: int = 2000
    lists: int = 4
    length: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # what scikit-learn takes
            raise ValueError(f"seed of a report: {self.seed} is not from 0 to {2**32 - 1}")
        for name in ("map_limit", "people", "queries", "lists", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a report: {getattr(self, name)} is not at least 1")


@dataclass(frozen=True)
class ScoreLine:
    """One line of the score table; fractions, None where there is no score.

    low, high: 95 % interval of the change.
    """

    protocol: str
    score: str
    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None

    @property
    def change(self) -> float | None:
        """After less before."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Map:
    """Sampled crops on a plane, twice."""

    method: str
    rows: Ints
    people: Ints
    before: projection.Points
    after: projection.Points


@dataclass
class Content:
    """The page's content; parts without data are empty."""

    pair: Pair
    settings: Settings
    scores: list[ScoreLine] = field(default_factory=list)
    curves: dict[str, tuple[Scores, Scores]] = field(default_factory=dict)
    sampled_queries: int = 0
    change: Change | None = None
    distances: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    map: Map | None = None
    groups: list[Group] = field(default_factory=list)


def gather(pair: Pair, settings: Settings = Settings()) -> Content:
    """Computes everything; the same for the same arguments.

    Raises:
        ValueError, ImportError: see :func:`embae_plugin.report_page.projection.available`.
    """
    method = projection.available(settings.map_method)
    content = Content(pair, settings)
    with tqdm(total=5, desc="report", unit="part", disable=None, leave=False) as bar:
        content.map = _map(pair, settings, method)
        bar.update()
        content.distances = _distances(pair, np.random.default_rng([settings.seed, 1]))
        bar.update()
        before, after = torch.from_numpy(pair.before), torch.from_numpy(pair.after)
        content.change = measure_change(before, after, pair.cameras, seed=settings.seed)
        bar.update()
        if pair.labelled:
            _score(content)
        bar.update()
        if not content.groups:
            rows = _some(np.arange(len(pair)), settings.queries, settings.seed)
            content.groups = unlabelled_groups(pair, rows, settings.lists, settings.length)
        bar.update()
    return content


def _some(rows: Ints, limit: int, seed: int) -> Ints:
    """At most ``limit`` of the rows, drawn at random, in their order."""
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng([seed, 2]).permutation(rows)[:limit])


def _score(content: Content) -> None:
    """The table, the curves and the ranked lists of labelled crops."""
    pair, settings = content.pair, content.settings
    q, g = pair.query, pair.gallery
    both = [
        evaluate_embeddings(
            x[q], x[g], pair.pids[q], pair.pids[g], pair.cameras[q], pair.cameras[g],
            max_rank=max(_CMC, *RANKS),
        )
        for x in (pair.before, pair.after)
    ]  # fmt: skip
    sample = _some(q, settings.queries, settings.seed)
    content.sampled_queries = len(sample)
    for name, protocol in PROTOCOLS.items():
        scores = (both[0][name], both[1][name])
        if not scores[0].queries:
            continue
        content.curves[name] = scores
        each = tuple(per_query(pair, x, sample, protocol) for x in (pair.before, pair.after))
        content.scores += _lines(name, scores, (each[0], each[1]), pair.pids[sample], settings.seed)
        if not content.groups:
            content.groups = labelled_groups(
                pair, sample, (each[0], each[1]), protocol, settings.lists, settings.length
            )


def _lines(
    name: str, scores: tuple[Scores, Scores], each: tuple[PerQuery, PerQuery], pids: Ints, seed: int
) -> list[ScoreLine]:
    old, new = scores
    lines = []
    for rank in RANKS:
        hit = [np.where(np.isnan(one.first), np.nan, one.first <= rank) for one in each]
        interval = mean_interval(hit[1] - hit[0], pids, np.random.default_rng([seed, 3]))
        lines.append(ScoreLine(name, f"Rank-{rank}", old.rank(rank), new.rank(rank), *interval))
    gain = each[1].precision - each[0].precision
    interval = mean_interval(gain, pids, np.random.default_rng([seed, 3]))
    return [*lines, ScoreLine(name, "mAP", old.mAP, new.mAP, *interval)]


def _map(pair: Pair, settings: Settings, method: str) -> Map:
    rng = np.random.default_rng([settings.seed, 0])
    rows, people = projection.choose(pair, settings.map_limit, settings.people, rng)
    before = projection.project(pair.before[rows], method, settings.seed)
    after = projection.project(pair.after[rows], method, settings.seed)
    return Map(method, rows, people, before, projection.aligned(after, before))


def _distances(pair: Pair, rng: np.random.Generator) -> dict[str, dict[str, NDArray[Any]]]:
    """Distances of sampled pairs: ``before``/``after`` -> name of the group -> values."""
    pairs = _labelled_pairs(pair, rng) if pair.labelled else _camera_pairs(pair, rng)
    return {
        when: {name: _lengths(x, a, b) for name, (a, b) in pairs.items() if len(a)}
        for when, x in (("before", pair.before), ("after", pair.after))
    }


def _lengths(x: Floats, a: Ints, b: Ints) -> Floats:
    out: Floats = np.linalg.norm(x[a] - x[b], axis=1)
    return out


def _labelled_pairs(pair: Pair, rng: np.random.Generator) -> dict[str, tuple[Ints, Ints]]:
    """One person on two cameras, and two persons on two cameras."""
    rows = np.flatnonzero(pair.pids != UNKNOWN)
    rows = rows[np.argsort(pair.pids[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(pair.pids[rows]) != 0])
    sizes = np.diff(np.r_[starts, len(rows)])
    first = rng.integers(0, len(rows), 4 * _PAIRS)
    group = np.searchsorted(starts, first, side="right") - 1
    second = starts[group] + (rng.random(len(first)) * sizes[group]).astype(np.int64)
    same = _unique_pairs(rows[first], rows[second])
    different = _unique_pairs(rows[first], rows[rng.permutation(first)])
    same = same[:, pair.cameras[same[0]] != pair.cameras[same[1]]][:, :_PAIRS]
    apart = pair.cameras[different[0]] != pair.cameras[different[1]]
    apart &= pair.pids[different[0]] != pair.pids[different[1]]
    different = different[:, apart][:, :_PAIRS]
    return {"same person": (same[0], same[1]), "different people": (different[0], different[1])}


def _camera_pairs(pair: Pair, rng: np.random.Generator) -> dict[str, tuple[Ints, Ints]]:
    a, b = rng.integers(0, len(pair), (2, 4 * _PAIRS))
    drawn = _unique_pairs(a, b)
    same = pair.cameras[drawn[0]] == pair.cameras[drawn[1]]
    one, two = drawn[:, same][:, :_PAIRS], drawn[:, ~same][:, :_PAIRS]
    return {"same camera": (one[0], one[1]), "different cameras": (two[0], two[1])}


def _unique_pairs(a: Ints, b: Ints) -> NDArray[np.int64]:
    """(2, n): each unordered pair of two different rows once."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    drawn = np.stack([low, high])[:, low != high]
    _, first = np.unique(drawn, axis=1, return_index=True)
    return np.asarray(drawn[:, np.sort(first)])
