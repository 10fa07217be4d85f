from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.evaluation.metrics import Scores, score_queries, summarise


def test_by_hand():
    """Hits at ranks 2 and 4 (one, then two negatives before); then a dropped query."""
    hits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    before = torch.tensor([[1, 2, 9], [0, 0, 0]])
    queries = score_queries(hits, before)
    precision, by_trapezoids, first_rank = queries.T
    # precision at the hits 1/2 and 2/4; before them 0/1 and 1/3
    assert precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    trapezoid = 0.5 * (0 + 1 / 2) / 2 + 0.5 * (1 / 3 + 2 / 4) / 2
    assert by_trapezoids[0] == pytest.approx(trapezoid)
    assert first_rank[0] == 2 and queries[1].isnan().all()

    scores = summarise(queries, 4, torch.arange(2))
    assert (scores.queries, scores.dropped_queries) == (1, 1)
    assert scores.mAP == pytest.approx(0.5)
    assert scores.mAP_trapezoid == pytest.approx(trapezoid)
    np.testing.assert_array_equal(scores.cmc, [0, 1, 1, 1])


def test_a_perfect_query_scores_one_under_both_rules():
    assert score_queries(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [[1.0, 1.0, 1.0]]


def test_slots_that_do_not_count_do_not_matter():
    """The nearer of two slots belongs to an ignored item."""
    [[precision, _, first_rank]] = score_queries(torch.tensor([[0.0, 1.0]]), torch.tensor([[0, 3]]))
    assert (precision, first_rank) == (0.25, 4)


def test_a_first_hit_past_the_end_of_the_cmc():
    queries = score_queries(torch.ones(1, 1), torch.full((1, 1), 7))
    scores = summarise(queries, 7, torch.arange(1))
    np.testing.assert_array_equal(scores.cmc, np.zeros(7))


def test_rank_reads_the_cmc_from_one():
    scores = Scores(np.array([0.25, 0.5, 0.75]), 0.1, 0.2, 4, 0)
    assert (scores.rank1, scores.rank(1), scores.rank(3)) == (0.25, 0.25, 0.75)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"no rank {k} in a CMC of 1 to 3"):
            scores.rank(k)
