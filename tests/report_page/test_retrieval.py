"""Ranked lists, neighbours and intervals by hand, ties as in the evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from embae_plugin.evaluation import PROTOCOLS, evaluate_embeddings
from embae_plugin.report_page.pairing import Pair
from embae_plugin.report_page.retrieval import (
    labelled_groups,
    mean_interval,
    nearest_crops,
    overlap,
    pick,
    ranked_list,
)


def line(values, pids, cameras) -> Pair:
    """Crops on a line."""
    x = np.array(values, dtype=np.float32)[:, None]
    rows = np.arange(len(values))
    return Pair(
        tuple(map(str, rows)), np.array(cameras), ("a", "b"), np.array(pids), ("p", "q", "r"),
        x, x, rows, rows,
    )


def test_a_ranked_list_tells_right_wrong_and_ignored():
    pair = line([0, 1, 2, 4, 8], pids=[0, 0, 1, 0, 2], cameras=[0, 0, 0, 1, 1])
    found = ranked_list(pair, pair.before, 0, PROTOCOLS["market"], 10)
    assert [(e.row, e.distance, e.verdict) for e in found] == [
        (1, 1.0, "ignored"), (2, 2.0, "wrong"), (3, 4.0, "right"), (4, 8.0, "wrong"),
    ]
    found = ranked_list(pair, pair.before, 0, PROTOCOLS["nd"], 2)
    assert [e.verdict for e in found] == ["ignored", "ignored"]


def test_neighbours_are_on_other_cameras():
    pair = line([0, 1, 2, 4, 8], pids=[0] * 5, cameras=[0, 0, 0, 1, 1])
    rows, near = nearest_crops(pair.before, np.array([0, 3]), np.arange(5), pair.cameras, 3)
    assert rows.tolist() == [[3, 4, -1], [2, 1, 0]]
    assert near[1].tolist() == [2.0, 3.0, 4.0]


def test_overlap_of_lists():
    a, b = np.array([[1, 2, 3], [4, 5, -1]]), np.array([[3, 9, 1], [6, 7, -1]])
    np.testing.assert_allclose(overlap(a, b), [2 / 3, 0])


def test_interval_covers_the_mean_and_widens_with_fewer_people():
    values = np.random.default_rng(0).normal(0.3, 1, 400)
    values[0] = np.nan
    rng = np.random.default_rng
    low, high = mean_interval(values, np.arange(400), rng(1))
    assert low < np.nanmean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * np.nanstd(values) / 20, rel=0.15)
    together = np.repeat(values[:20], 20)  # 20 people, 20 equal queries of each
    wide = mean_interval(together, np.repeat(np.arange(20), 20), rng(1))
    assert wide[1] - wide[0] > 3 * (high - low)
    assert np.isnan(mean_interval(np.array([np.nan]), np.array([0]), rng(0))).all()


def test_one_list_for_each_identity():
    values, pids = np.array([0.1, 0.9, 0.8, 0.7, np.nan]), np.array([0, 1, 1, 2, 3])
    assert pick(values, pids, 2) == [1, 3] and pick(values, pids, 9) == [1, 3, 0]


def test_groups_are_by_average_precision(pair):
    ids, market = (pair.pids, pair.pids, pair.cameras, pair.cameras), PROTOCOLS["market"]
    old, new = (evaluate_embeddings(x, x, *ids)["market"].precision
                for x in (pair.before, pair.after))
    groups = {g.title: g for g in labelled_groups(pair, pair.query, old, new, market, 3, 5)}
    assert groups["Most improved"].lists[0].query == np.argmax(new - old)
    assert groups["Worst after adaptation"].lists[0].query == np.argmin(new)
    assert len({pair.pids[one.query] for one in groups["Best after adaptation"].lists}) == 3


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("once", [1, 7])
@pytest.mark.parametrize("count", range(10, 40, 3))
def test_equal_crops_tie_against_the_query(name, once, count):
    """As in the evaluator, where distances themselves would be rounded apart."""
    rng = np.random.default_rng(count)
    x = rng.standard_normal((once, 257)).astype(np.float32)[rng.integers(once, size=count)]
    x[:2] = rng.standard_normal((2, 257))
    pids, cameras, rows = rng.integers(3, size=count), rng.integers(3, size=count), np.arange(count)
    pair = Pair(tuple(map(str, rows)), cameras, ("a", "b", "c"), pids, tuple("pqr"),
                x, x, rows, rows)
    first = evaluate_embeddings(x, x, pids, pids, cameras, cameras)[name].first_rank
    assert np.isfinite(first).any()
    for query in np.flatnonzero(np.isfinite(first)):
        shown = ranked_list(pair, x, query, PROTOCOLS[name], count)
        kept = [entry.verdict for entry in shown if entry.verdict != "ignored"]
        assert kept.index("right") + 1 == first[query]


@pytest.mark.parametrize("count", range(3, 40))
def test_equal_crops_are_neighbours_in_their_order(count):
    x = np.repeat(np.random.default_rng(0).standard_normal((1, 257)), count, 0).astype(np.float32)
    rows = np.arange(count)
    x[0] = 1
    found, _ = nearest_crops(x, rows[:1], rows, (rows > 0).astype(int), count - 1)
    np.testing.assert_array_equal(found, [rows[1:]])
