"""The same numbers as torchreid's evaluator and scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin import torchreid_bridge
from embae_plugin.evaluation import evaluate_embeddings, evaluate_rank
from tests.evaluation.brute_force import Retrieval, ranked_matches


@pytest.mark.parametrize("seed", range(4))
def test_torchreid(seed):
    data = Retrieval.random(seed, queries=150, gallery=900, identities=40, cameras=6, dim=32)
    distmat = data.distmat.astype(np.float32)
    with torchreid_bridge.quiet():
        theirs = torchreid_bridge.evaluate_rank(distmat, *data.ids, use_cython=False)
    scores = evaluate_embeddings(*data.args)["market"]
    for cmc, mean_ap in (
        evaluate_rank(distmat, *data.ids),
        evaluate_rank(torch.from_numpy(distmat), *data.ids),
        (scores.cmc, scores.mAP),
    ):
        np.testing.assert_allclose(cmc, theirs[0], atol=1e-6)
        assert mean_ap == pytest.approx(theirs[1], abs=1e-6)


@pytest.mark.parametrize("protocol", ["market", "nd"])
def test_scikit_learn(protocol):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    data = Retrieval.random(9, queries=25, gallery=300, identities=10, cameras=4)
    distmat, expected = data.distmat, []
    for row in range(25):
        match = ranked_matches(
            distmat[row], data.q_pids[row], data.g_pids, data.q_camids[row], data.g_camids, protocol
        )
        expected.append(sklearn_metrics.average_precision_score(match, -np.arange(len(match))))
    scores = evaluate_embeddings(*data.args)[protocol]
    assert scores.dropped_queries == 0
    assert scores.mAP == pytest.approx(np.mean(expected), abs=1e-9)
