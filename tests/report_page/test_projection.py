"""Maps: what is drawn, the same for a seed, and laid alike."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from embae_plugin.report_page import Settings, projection


def test_sample_holds_whole_people_and_keeps_to_its_limit(pair):
    rows, people = projection.choose(pair, 20, 2, np.random.default_rng(0))
    assert len(rows) == 20 and len(set(rows)) == 20 and len(people) == 2
    for code in people:
        assert set(np.flatnonzero(pair.pids == code)) <= set(rows)
    everything, _ = projection.choose(pair, 999, 3, np.random.default_rng(0))
    assert everything.tolist() == list(range(len(pair)))


def test_tsne_is_the_same_for_a_seed(pair):
    first, again = (projection.project(pair.before, "tsne", 3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (48, 2) and np.isfinite(first).all()


def test_pca_keeps_distances_of_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(9, 2))
    turned = (plane @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]).astype(np.float32)
    flat = projection.project(turned, "pca", 0)
    gaps = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (plane, flat)]
    np.testing.assert_allclose(gaps[0], gaps[1], atol=1e-5)


def test_maps_are_turned_not_bent():
    points = np.random.default_rng(0).normal(size=(7, 2))
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])  # and mirrored
    back = projection.aligned(points @ turn + 3, points)
    np.testing.assert_allclose(back, points - points.mean(0), atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_crops_lie_on_the_plane_too(count):
    flat = projection.project(np.eye(count, 3, dtype=np.float32), "tsne", 0)
    assert flat.shape == (count, 2) and np.isfinite(flat).all()
    assert np.isfinite(projection.project(np.ones((9, 3), np.float32), "tsne", 0)).all()


def test_maps_that_cannot_be_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        projection.project(np.eye(9, dtype=np.float32), "umap", 0)
    with pytest.raises(ValueError, match="must be one of tsne, umap, pca"):
        Settings(map_method="som")
