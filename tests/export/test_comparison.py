"""How an exported file is compared with its model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.export.equality import largest_difference, some_images
from embae_plugin.export.formats import ImagesToEmbeddings


def runner(graph, change=lambda z: z, sizes=None):
    def run(images, camera):
        if sizes is not None:
            sizes.append(len(images))
        with torch.inference_mode():
            return change(graph(torch.from_numpy(images)).numpy())

    return run


@pytest.fixture
def images():
    return np.random.default_rng(0).random((12, 3, 64, 32), dtype=np.float32)


def test_the_largest_difference_is_found(bundle, images):
    graph, sizes = ImagesToEmbeddings(bundle), []
    assert largest_difference(graph, runner(graph, sizes=sizes), images) == 0
    assert sizes == [1, 2, 3, 4, 2]

    def last_value(z):
        z = z.copy()
        z[-1, -1] += 0.25
        return z

    assert largest_difference(graph, runner(graph, last_value), images) == pytest.approx(0.25)


def test_a_fixed_batch_size_shows(bundle, images):
    graph = ImagesToEmbeddings(bundle)
    with pytest.raises(ValueError, match=r"gives \(1, 16\) values for 2 images"):
        largest_difference(graph, runner(graph, lambda z: z[:1]), images)
    with pytest.raises(ValueError, match="not finite"):
        largest_difference(graph, runner(graph, lambda z: z * np.nan), images)


def test_which_crops(crops, tmp_path):
    everything = some_images([str(crops)], 100)
    assert everything == sorted(crops.rglob("*.png")) and len(everything) == 9
    some = some_images([str(crops)], 3)
    assert some == [everything[0], everything[4], everything[8]]
    assert some_images([str(everything[2])], 3) == [everything[2]]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        some_images([str(tmp_path / "none")], 3)
    with pytest.raises(ValueError, match="there are no images in"):
        some_images([str(tmp_path)], 3)
