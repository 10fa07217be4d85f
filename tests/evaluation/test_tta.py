"""Test-time augmentation: the mean of embeddings, not the embedding of a mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.evaluation.tta import embed_views
from embae_plugin.models.dense import DenseHead
from tests.methods.tiny import tiny_store, two_layer_model, write_crops


@pytest.fixture
def head() -> DenseHead:
    head = DenseHead(5, 7, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # batch norm that has seen something
        head.train()(torch.randn(20, 5, generator=torch.Generator().manual_seed(1)))
    return head.eval()


def features(count: int, views: int) -> torch.Tensor:
    return torch.randn(count, views, 5, generator=torch.Generator().manual_seed(2))


def by_hand(head: DenseHead, h: torch.Tensor, normalize: bool) -> np.ndarray:
    rows = []
    with torch.no_grad():
        for image in h:
            mean = sum(head(view[None])[0].double().numpy() for view in image) / len(image)
            rows.append(mean / np.linalg.norm(mean) if normalize else mean)
    return np.stack(rows)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("views", [1, 2, 10])
@pytest.mark.parametrize("batch_size", [1, 4, 8192])
def test_the_mean_over_views_is_that_taken_by_hand(head, normalize, views, batch_size):
    h = features(7, views)
    got = embed_views(head, h, normalize, batch_size)
    assert got.shape == (7, 3) and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), by_hand(head, h, normalize), atol=1e-5)


def test_views_are_averaged_before_their_length_is_lost():
    h = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])  # mean (1.5, 0.5); of unit vectors it'd be equal
    out = embed_views(torch.nn.Identity(), h)
    assert out[0].tolist() == pytest.approx([1.5 / 2.5**0.5, 0.5 / 2.5**0.5])
    assert embed_views(torch.nn.Identity(), h, normalize=False).tolist() == [[1.5, 0.5]]


def test_the_head_sees_each_view_and_not_their_mean():
    h = torch.tensor([[[2.0], [-2.0]]])
    assert embed_views(torch.relu, h, normalize=False).tolist() == [[1.0]]


def test_an_embedding_of_length_zero_stays_finite():
    assert embed_views(torch.nn.Identity(), torch.zeros(2, 2, 4)).tolist() == [[0.0] * 4] * 2


def test_mirrored_images_have_one_embedding(tmp_path):
    """With flips averaged, an image and its mirror image cannot be told apart."""
    records = write_crops(tmp_path, people=2, cameras=1, each=1)
    model = two_layer_model().eval()
    h = tiny_store().features(model.trunk, records, "crops")
    swapped = h.flip(1)
    assert torch.allclose(embed_views(model.f_emb, h), embed_views(model.f_emb, swapped), atol=1e-6)
    single = embed_views(model.f_emb, h[:, :1])
    assert not torch.allclose(single, embed_views(model.f_emb, swapped[:, :1]), atol=1e-4)
