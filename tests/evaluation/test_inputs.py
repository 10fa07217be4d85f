"""Each wrong argument gets a message that says which and why."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.evaluation import evaluate_embeddings, evaluate_rank

GOOD = {
    "q_emb": np.eye(2, 3),
    "g_emb": np.arange(12.0).reshape(4, 3),
    "q_pids": [1, 2],
    "g_pids": [1, 2, 1, 2],
    "q_camids": [0, 0],
    "g_camids": [1, 1, 1, 1],
}
NAN_ROWS = np.array([[0.0, 1, 2], [np.nan, 0, 0], [np.inf, 0, 0], [1, 1, 1]])


def test_the_good_arguments_are_good():
    assert evaluate_embeddings(**GOOD)["nd"].queries == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q_emb": np.ones(3)}, r"q_emb must be 2-D and not empty, got shape \(3,\)"),
        ({"g_emb": torch.ones(4)}, r"g_emb must be 2-D and not empty, got shape \(4,\)"),
        ({"q_emb": np.ones((0, 3)), "q_pids": [], "q_camids": []}, r"q_emb must .* \(0, 3\)"),
        ({"g_emb": np.ones((0, 3)), "g_pids": [], "g_camids": []}, r"g_emb must .* \(0, 3\)"),
        ({"q_emb": np.ones((2, 4))}, "q_emb has 4 dimensions and g_emb 3"),
        ({"g_emb": NAN_ROWS}, "g_emb: 2 of 4 rows hold NaN or infinite"),
        ({"q_emb": torch.full((2, 3), torch.nan)}, "q_emb: 2 of 2 rows hold NaN"),
        ({"q_emb": np.full((2, 3), 1.7e308)}, "embeddings too far apart"),
        ({"g_emb": np.full((4, 3), 1e308) * [[1], [-1], [1], [1]]}, "g_emb: values too large"),
        ({"g_emb": NAN_ROWS.astype(str)}, "g_emb must hold real numbers, got dtype <U"),
        ({"g_emb": torch.ones(4, 3, dtype=torch.cfloat)}, "g_emb must hold real numbers"),
        ({"q_pids": [1]}, r"q_pids must be one id for each of 2 rows, got shape \(1,\)"),
        ({"g_pids": [1, 2, 3]}, r"g_pids must be one id for each of 4 rows, got shape \(3,\)"),
        ({"q_camids": [[0, 0]]}, r"q_camids must be one .* got shape \(1, 2\)"),
        ({"g_camids": [1, 1]}, r"g_camids must be one .* got shape \(2,\)"),
        ({"q_pids": [1.0, 2.5]}, "q_pids must be integers, got dtype float64"),
        ({"q_pids": ["a", "b"]}, "q_pids must be integers, got dtype <U1"),
        ({"g_camids": [0.5] * 4}, "g_camids must be integers or strings, got dtype float64"),
        ({"g_camids": ["1"] * 4}, "q_camids and g_camids must both be"),
        ({"protocols": ["market", "duke"]}, "unknown evaluation protocol 'duke'; valid ones: mar"),
        ({"max_rank": 0}, "max_rank must be at least 1, got 0"),
        ({"block_bytes": 0}, "block_bytes must be at least 1, got 0"),
    ],
)
def test_wrong_embeddings_and_ids(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_embeddings(**{**GOOD, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"distmat": np.ones(4)}, "distmat must be 2-D"),
        ({"distmat": np.ones((2, 0)), "g_pids": [], "g_camids": []}, "distmat must .* not empty"),
        ({"distmat": np.ones((3, 4))}, "q_pids must be one id for each of 3 rows"),
        ({"distmat": np.array([[np.nan] * 4, [1.0] * 4])}, "distmat: 1 of 2 rows hold NaN"),
        ({"distmat": torch.full((2, 4), torch.nan)}, "distmat: 2 of 2 rows hold NaN"),
        ({"protocol": "duke"}, "unknown evaluation protocol 'duke'"),
        ({"max_rank": -1}, "max_rank must be at least 1, got -1"),
    ],
)
def test_wrong_distance_matrices(change, message):
    good = {name: value for name, value in GOOD.items() if not name.endswith("emb")}
    with pytest.raises(ValueError, match=message):
        evaluate_rank(**{"distmat": np.ones((2, 4)), **good, **change})


def test_any_layout_of_memory_and_any_real_numbers():
    packed = np.zeros((2, 3), dtype=[("name", "S1"), ("x", "f4")])["x"]
    packed[:] = GOOD["q_emb"]
    expected = evaluate_embeddings(**GOOD)["market"].mAP
    for q_emb in (packed, GOOD["q_emb"].astype(">f8"),
                  GOOD["q_emb"].astype(np.uint8), GOOD["q_emb"].tolist()):
        assert evaluate_embeddings(**{**GOOD, "q_emb": q_emb})["market"].mAP == expected
    mirrored = {"q_emb": GOOD["q_emb"][:, ::-1], "g_emb": GOOD["g_emb"][:, ::-1]}
    assert evaluate_embeddings(**{**GOOD, **mirrored})["market"].mAP == expected
