"""Pseudo-labels: what clusters are found, and that cameras do not make them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from embae_plugin.clustering import PseudoLabels, jaccard_distances, pseudo_labels
from embae_plugin.clustering.pseudo_labels import without_camera_means
from tests.clustering.test_jaccard import whole

PEOPLE, CAMERAS, SHOTS = 12, 3, 4
SETTINGS = {"k1": 11, "k2": 3, "min_samples": 3}


def world(offset: float) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Embeddings, people and cameras: each camera adds a vector of length ``offset`` to all."""
    generator = torch.Generator().manual_seed(1)
    person = torch.arange(PEOPLE).repeat_interleave(CAMERAS * SHOTS)
    camera = torch.arange(CAMERAS).repeat_interleave(SHOTS).repeat(PEOPLE)
    means = F.normalize(torch.randn(PEOPLE, 32, generator=generator), dim=1)
    shifts = F.normalize(torch.randn(CAMERAS, 32, generator=generator), dim=1) * offset
    noise = 0.05 * torch.randn(len(person), 32, generator=generator)
    return means[person] + shifts[camera] + noise, person.numpy(), camera.numpy()


def test_camera_means_are_taken_away_by_hand():
    x = torch.tensor([[3.0, 0.0], [1.0, 4.0], [5.0, 5.0], [5.0, 8.0], [5.0, 5.0]])
    found = without_camera_means(x, np.array([7, 7, 2, 2, 2]))
    # Means (2, 2) and (5, 6).
    expected = [[1, -2], [-1, 2], [0, -1], [0, 2], [0, -1]]
    torch.testing.assert_close(found, F.normalize(torch.tensor(expected).float(), dim=1))


def test_a_camera_with_one_image_leaves_no_nan():
    found = without_camera_means(torch.eye(3), np.array([0, 0, 1]))
    assert found[2].tolist() == [0, 0, 0] and bool(torch.isfinite(found).all())


def test_people_are_found_across_cameras_only_without_the_cameras_means():
    x, person, camera = world(offset=2.0)
    found = pseudo_labels(x, camera, **SETTINGS)
    assert adjusted_rand_score(person, found.labels) > 0.99
    assert found.clusters == PEOPLE and len(found.kept) == len(x)
    assert found.cameras_per_cluster(camera) == CAMERAS
    unaware = pseudo_labels(x, np.zeros_like(camera), **SETTINGS)  # one mean for all
    assert unaware.cameras_per_cluster(camera) < 1.5
    assert adjusted_rand_score(person, unaware.labels) < 0.9


def test_camera_numbers_are_names_only():
    x, _, camera = world(offset=2.0)
    renamed = np.array([40, -3, 10**9])[camera]
    first, second = (pseudo_labels(x, c, **SETTINGS).labels for c in (camera, renamed))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("eps", [0.3, 0.5, 0.8])
def test_sparse_distances_give_the_clusters_of_the_full_matrix(eps):
    x, _, camera = world(offset=0.5)
    x = torch.cat([x[:-1], x[:1], torch.randn(6, 32)])  # a twin, and nobody
    camera = np.concatenate([camera[:-1], camera[:1], np.arange(6) % CAMERAS])
    full = whole(jaccard_distances(without_camera_means(x, camera), 11, 3, largest=2.0))
    expected = DBSCAN(eps=eps, min_samples=3, metric="precomputed").fit_predict(full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pseudo_labels(x, camera, eps=eps, **SETTINGS)
    assert np.array_equal(found.labels, expected)
    assert found.clusters > 1


def test_crops_in_no_cluster_are_left_out():
    x, _, camera = world(offset=0.0)
    found = pseudo_labels(x[::SHOTS], camera[::SHOTS], min_samples=9, k1=2, k2=1)
    assert found.clusters == 0 and len(found.kept) == 0 and set(found.labels) == {-1}
    assert np.isnan(found.cameras_per_cluster(camera[::SHOTS]))


def test_numbers_of_clusters_by_hand():
    found = PseudoLabels(np.array([0, -1, 1, 0, 1, 1]))
    assert found.clusters == 2 and found.kept.tolist() == [0, 2, 3, 4, 5]
    # Cluster 0 is seen by cameras 0 and 5, cluster 1 by camera 2 alone.
    assert found.cameras_per_cluster(np.array([0, 9, 2, 5, 2, 2])) == 1.5


def test_bad_settings_are_refused():
    x, _, camera = world(offset=0.0)
    for settings, message in (
        ({"eps": 0.0}, "eps 0.0 must lie between 0 and 1"),
        ({"eps": 1.0}, "eps 1.0 must lie between 0 and 1"),
        ({"min_samples": 0}, "min_samples 0, k1 30 and k2 6 be at least 1"),
        ({"k1": 0}, "k1 0"),
        ({"k2": 0}, "k2 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pseudo_labels(x, camera, **settings)
    with pytest.raises(ValueError, match="144 embeddings, but 143 camera numbers"):
        pseudo_labels(x, camera[1:])
    with pytest.raises(ValueError, match="at least 2 rows"):
        pseudo_labels(x[:1], camera[:1])
    with pytest.raises(ValueError, match="at least 2 rows"):
        pseudo_labels(x[:0], camera[:0])


@pytest.mark.parametrize(
    ("labels", "doubt"),
    [
        ([0] * 10 + [1] * 10 + [2] * 10 + [-1] * 70, ""),
        ([0] * 21 + [1] * 10 + [-1] * 69, "one cluster holds 21 of 100 crops, which is more than"),
        ([0] * 4 + [1] * 5 + [-1] * 91, "9 of 100 crops lie in clusters, of which there are 2"),
        ([0] * 50 + [-1] * 50, "50 of 100 crops lie in clusters, of which there are 1"),
        ([-1] * 100, "0 of 100 crops lie in clusters, of which there are 0"),
    ],
)
def test_clusters_that_are_no_people(labels, doubt):
    found = PseudoLabels(np.array(labels)).doubts(least_kept=0.1, largest=0.2)
    assert found.startswith(doubt) and bool(found) == bool(doubt)
