"""Equal gallery crops are found together, in their order, through faiss and without."""

from __future__ import annotations

import numpy as np
import pytest

from embae_plugin.evaluation import nearest as search
from embae_plugin.evaluation.nearest import nearest, unit_length


@pytest.fixture(params=[True, False], ids=["faiss", "torch"])
def backend(request, monkeypatch):
    if request.param:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(search, "faiss_or_none", lambda: None)


@pytest.mark.parametrize("top", [1, 4, 50, 400])
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("once", [1, 40])
def test_equal_crops_come_in_their_order(backend, top, hide, once):
    rng = np.random.default_rng(once)
    points = unit_length(rng.standard_normal((once, 129)).astype(np.float32))
    drawn = rng.integers(once, size=207)
    query = unit_length(rng.standard_normal((11, 129)).astype(np.float32))
    hidden = rng.random(207) < 0.3 if hide else None
    rows, similarity = nearest(query, points[drawn], top, hidden)
    exact = query.astype(np.float64) @ points.T.astype(np.float64)
    shown = np.arange(207) if hidden is None else np.flatnonzero(~hidden)
    for line, values, by_hand in zip(rows, similarity, exact, strict=True):
        far = -by_hand[drawn[shown]]
        np.testing.assert_array_equal(line, shown[np.lexsort((shown, far))][:top])
        np.testing.assert_allclose(values, by_hand[drawn[line]], atol=1e-6)
        assert len(np.unique(values)) == len(np.unique(drawn[line]))


def test_an_inverted_file_finds_equal_crops(backend):
    rng = np.random.default_rng(0)
    points = unit_length(rng.standard_normal((2500, 8)).astype(np.float32))
    rows, similarity = nearest(points[:9], np.concatenate([points, points]), 4, index="ivf")
    np.testing.assert_array_equal(rows[:, :2], [[n, n + 2500] for n in range(9)])
    np.testing.assert_array_equal(rows[:, 3] - rows[:, 2], np.full(9, 2500))
    assert (similarity[:, ::2] == similarity[:, 1::2]).all()
