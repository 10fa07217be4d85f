from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from embae_plugin.evaluation import evaluate_embeddings, evaluate_rank
from tests.evaluation.brute_force import Retrieval, average_precisions, brute_force, ranked_matches

# One query (pid 1, camera 0) on a line at 0. From near to far:
#   pid 1 cam 0 (same camera), pid 2 cam 0, pid 1 cam 1, pid 3 cam 1, pid 3 cam 0, pid 1 cam 2
LINE = {
    "g_emb": np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]),
    "g_pids": [1, 2, 1, 3, 3, 1],
    "g_camids": [0, 0, 1, 1, 0, 2],
}


def test_both_protocols_and_both_rules_by_hand():
    scores = evaluate_embeddings(np.zeros((1, 1)), q_pids=[1], q_camids=[0], max_rank=6, **LINE)
    # market keeps - + - - +, nd keeps + - +
    market, nd = scores["market"], scores["nd"]
    np.testing.assert_array_equal(market.cmc, [0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(nd.cmc, np.ones(6))
    assert market.mAP == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert nd.mAP == pytest.approx((1 + 2 / 3) / 2)
    # precision before the hits: market 0/1 and 1/4; nd 1 (the start) and 1/2
    assert market.mAP_trapezoid == pytest.approx(((0 + 1 / 2) / 2 + (1 / 4 + 2 / 5) / 2) / 2)
    assert nd.mAP_trapezoid == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert (market.queries, market.dropped_queries, market.rank1, nd.rank1) == (1, 0, 0.0, 1.0)


@pytest.mark.parametrize("protocol, first", [("market", 2), ("nd", 1)])
def test_a_distance_matrix_by_hand(protocol, first):
    distmat = LINE["g_emb"].T
    cmc, mean_ap = evaluate_rank(
        distmat, [1], LINE["g_pids"], [0], LINE["g_camids"], 4, protocol=protocol
    )
    np.testing.assert_array_equal(cmc, np.arange(1, 5) >= first)
    assert isinstance(mean_ap, float)


def test_a_gallery_smaller_than_max_rank_extends_the_last_value():
    """Ignoring leaves two of three items, torchreid's CMC would have three or be ragged."""
    cmc, _ = evaluate_rank(
        [[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]], [1, 2], [1, 1, 2], [0, 1], [0, 1, 0], protocol="nd"
    )
    np.testing.assert_array_equal(cmc, [0.5] + [1.0] * 49)


def test_ties_are_pessimistic():
    """A model that maps everything to one point ranks every negative before every positive."""
    args = ([1], [1, 2, 2, 1, 2], [0], [1, 1, 1, 1, 1])
    scores = evaluate_embeddings(np.full((1, 4), 0.3), np.full((5, 4), 0.3), *args)["market"]
    assert scores.mAP == pytest.approx((1 / 4 + 2 / 5) / 2)
    np.testing.assert_array_equal(scores.cmc[:5], [0, 0, 0, 1, 1])
    _, mean_ap = evaluate_rank(np.zeros((1, 5)), *args)
    assert mean_ap == pytest.approx(scores.mAP)


def test_ties_away_from_zero_stay_ties():
    """Opposite points are equally far, though their coordinates, and the mean, are crooked."""
    q_emb, g_emb = np.full((1, 1), 5.0), np.array([[4.0], [6.0], [1000.0]])
    scores = evaluate_embeddings(q_emb, g_emb, [1], [1, 2, 2], [0], [1, 1, 1])["market"]
    assert scores.mAP == 0.5


def test_infinite_distances_rank_last():
    """Users mark excluded pairs so; an infinitely far positive comes after all negatives."""
    distmat = [[np.inf, np.inf, 1.0, np.inf]]
    _, mean_ap = evaluate_rank(distmat, [1], [1, 2, 2, 1], [0], [1, 1, 1, 0])
    assert mean_ap == pytest.approx(1 / 3)


def test_one_query_and_one_item():
    scores = evaluate_embeddings(np.ones((1, 2)), np.zeros((1, 2)), [3], [3], [0], [1])
    for protocol in ("market", "nd"):
        assert (scores[protocol].rank1, scores[protocol].mAP) == (1.0, 1.0)


def test_queries_without_a_positive_are_dropped_and_counted():
    """Query 0 has a positive in another camera, 1 only in its own, 2 none."""
    scores = evaluate_embeddings(
        np.zeros((3, 1)), np.array([[1.0], [2.0]]), [1, 2, 9], [1, 2], [0, 0, 0], [1, 0]
    )
    for protocol in ("market", "nd"):
        assert (scores[protocol].queries, scores[protocol].dropped_queries) == (1, 2)
        assert scores[protocol].mAP == 1.0


def test_one_camera_leaves_no_query(caplog):
    data = Retrieval.random(seed=0, queries=7, gallery=20, cameras=1)
    with caplog.at_level(logging.WARNING):
        scores = evaluate_embeddings(*data.args, protocols=["nd"], max_rank=3)["nd"]
    assert "protocol nd: none of the 7 queries has a positive" in caplog.text
    assert (scores.queries, scores.dropped_queries) == (0, 7)
    assert np.isnan([scores.mAP, scores.mAP_trapezoid, scores.rank1, *scores.cmc]).all()


@pytest.mark.parametrize("seed", range(60))
def test_brute_force(seed):
    rng = np.random.default_rng(1000 + seed)
    data = Retrieval.random(
        seed,
        queries=int(rng.integers(1, 30)),
        gallery=int(rng.integers(1, 61)),
        identities=int(rng.integers(2, 9)),
        cameras=int(rng.integers(1, 5)),
    )
    max_rank = int(rng.integers(1, 70))
    scores = evaluate_embeddings(*data.args, max_rank=max_rank)
    for protocol in ("market", "nd"):
        cmc, mean_ap, trapezoid, dropped = brute_force(data.distmat, *data.ids, protocol, max_rank)
        ours = scores[protocol]
        np.testing.assert_allclose(ours.cmc, cmc, atol=1e-12)
        np.testing.assert_allclose([ours.mAP, ours.mAP_trapezoid], [mean_ap, trapezoid], atol=1e-12)
        assert (ours.queries, ours.dropped_queries) == (len(data.q_pids) - dropped, dropped)
        again = evaluate_rank(data.distmat, *data.ids, max_rank, protocol)
        np.testing.assert_allclose(again[0], cmc, atol=1e-12)
        np.testing.assert_allclose(again[1], mean_ap, atol=1e-12)


@pytest.mark.parametrize("protocol", ["market", "nd"])
def test_each_query_has_its_result_in_its_place(protocol):
    data = Retrieval.random(9, queries=40, gallery=60, identities=12, cameras=3)
    scores = evaluate_embeddings(*data.args)[protocol]
    q_pids, g_pids, q_camids, g_camids = data.ids
    matches = [ranked_matches(far, pid, g_pids, camid, g_camids, protocol)
               for far, pid, camid in zip(data.distmat, q_pids, q_camids, strict=True)]
    first = [match.argmax() + 1 if match.any() else np.nan for match in matches]
    precision = [average_precisions(match)[0] if match.any() else np.nan for match in matches]
    np.testing.assert_array_equal(scores.first_rank, first)
    np.testing.assert_allclose(scores.precision, precision, atol=1e-12)


@pytest.mark.parametrize("identities", [2, 3])
def test_a_gallery_over_several_slices_and_hundreds_of_positives(identities):
    data = Retrieval.random(5, queries=10, gallery=9000, identities=identities, dim=16)
    distmat = data.distmat
    scores = evaluate_embeddings(*data.args)
    for protocol in ("market", "nd"):
        cmc, mean_ap, trapezoid, _ = brute_force(distmat, *data.ids, protocol, 50)
        np.testing.assert_array_equal(scores[protocol].cmc, cmc)
        assert scores[protocol].mAP == pytest.approx(mean_ap, abs=1e-6)
        assert scores[protocol].mAP_trapezoid == pytest.approx(trapezoid, abs=1e-6)


def test_ids_may_be_sparse_negative_strings_or_tensors():
    data = Retrieval.random(seed=3, queries=12, gallery=40)
    plain = evaluate_embeddings(*data.args)["nd"]
    names = np.array(["north", "south", "zoo"])
    for pids in (data.q_pids, data.g_pids):
        pids *= 10**12
    other = evaluate_embeddings(
        torch.from_numpy(data.q_emb),
        torch.from_numpy(data.g_emb),
        torch.from_numpy(data.q_pids),
        data.g_pids.tolist(),
        names[data.q_camids],
        names[data.g_camids].tolist(),
    )["nd"]
    assert other.mAP == plain.mAP
    np.testing.assert_array_equal(other.cmc, plain.cmc)
