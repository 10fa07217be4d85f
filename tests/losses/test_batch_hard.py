from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import BatchHardMiner

from embae_plugin.losses import BatchHardTripletLoss, batch_hard_mine, pairwise_distances

# Two people on a line: 0 and 3 are one, 5 and 9 the other.
LINE = torch.tensor([[0.0], [3.0], [5.0], [9.0]])
PIDS = torch.tensor([7, 7, 2, 2])


def random_batch(seed: int, P: int = 6, K: int = 3, dim: int = 8) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(P * K, dim, generator=generator, dtype=torch.float64)
    return x, torch.arange(P).repeat_interleave(K)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_distances_by_hand():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    expected = torch.tensor([[0.0, 5.0, 5.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    torch.testing.assert_close(pairwise_distances(x), expected)


def test_small_distances_between_long_vectors_survive_float32():
    x = torch.full((2, 128), 50.0)
    x[1, 0] += 2**-10
    # The Gram matrix form gives 0 or some 0.1 here.
    assert pairwise_distances(x)[0, 1].item() == pytest.approx(2**-10, rel=1e-3)


def test_mining_by_hand():
    d_pos, d_neg, valid = batch_hard_mine(pairwise_distances(LINE), PIDS)
    assert d_pos.tolist() == [3, 3, 4, 4]
    assert d_neg.tolist() == [5, 2, 2, 6]
    assert valid.all()


def test_soft_margin_by_hand():
    expected = sum(softplus(g) for g in (3 - 5, 3 - 2, 4 - 2, 4 - 6)) / 4
    assert BatchHardTripletLoss()(LINE, PIDS).item() == pytest.approx(expected, rel=1e-6)


def test_hinge_by_hand():
    # gaps -2, 1, 2, -2; margin 0.5 leaves 0, 1.5, 2.5, 0
    assert BatchHardTripletLoss(margin=0.5)(LINE, PIDS).item() == pytest.approx(1.0)
    # margin 0 is a margin, not the soft one
    assert BatchHardTripletLoss(margin=0)(LINE, PIDS).item() == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(5))
def test_equals_pytorch_metric_learning(seed):
    x, pids = random_batch(seed)
    anchors, positives, negatives = BatchHardMiner(distance=LpDistance(normalize_embeddings=False))(
        x, pids
    )
    assert len(anchors) == len(x)
    gap = F.pairwise_distance(x[anchors], x[positives], eps=0) - F.pairwise_distance(
        x[anchors], x[negatives], eps=0
    )
    torch.testing.assert_close(BatchHardTripletLoss()(x, pids), F.softplus(gap).mean())
    torch.testing.assert_close(BatchHardTripletLoss(0.3)(x, pids), (gap + 0.3).relu().mean())


@pytest.mark.parametrize("margin", ["soft", 20.0])
def test_gradients_are_those_of_the_definition(margin):
    x, pids = random_batch(1, P=3, K=2, dim=4)
    assert torch.autograd.gradcheck(
        lambda f: BatchHardTripletLoss(margin)(f, pids), x.requires_grad_()
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_mining_equals_brute_force(pids, seed):
    x = torch.randn(len(pids), 3, generator=torch.Generator().manual_seed(seed))
    dist = pairwise_distances(x)
    d_pos, d_neg, valid = batch_hard_mine(dist, torch.tensor(pids))
    for a, pid in enumerate(pids):
        to_positives = [dist[a, i].item() for i, p in enumerate(pids) if p == pid and i != a]
        to_negatives = [dist[a, i].item() for i, p in enumerate(pids) if p != pid]
        assert valid[a].item() == bool(to_positives and to_negatives)
        if valid[a]:
            assert (d_pos[a].item(), d_neg[a].item()) == (max(to_positives), min(to_negatives))
        else:
            assert (d_pos[a].item(), d_neg[a].item()) == (0, 0)


def test_identity_with_one_image_is_a_negative_but_no_anchor():
    x = torch.tensor([[0.0], [1.0], [4.0]], requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((softplus(1 - 4) + softplus(1 - 3)) / 2)


@pytest.mark.parametrize("pids", [[5, 5, 5], [0, 1, 2], [3]])
def test_batch_without_triplets_has_zero_loss_and_gradient(pids):
    x = torch.randn(len(pids), 4, requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.tensor(pids))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_empty_batch():
    x = torch.zeros(0, 4, requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


def test_duplicates_have_finite_gradients():
    x = torch.ones(6, 4, requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(x.grad).all()


def test_large_gaps_do_not_overflow():
    x = torch.tensor([[0.0], [1000.0], [500.0], [500.0]], requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx((500 + 500) / 4)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype):
    x, pids = random_batch(0)
    loss = BatchHardTripletLoss()(x.to(dtype), pids)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = BatchHardTripletLoss()(x.to(dtype).double(), pids)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_bfloat16_autocast_changes_nothing():
    x, pids = random_batch(2)
    x = x.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = BatchHardTripletLoss()(x, pids)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == BatchHardTripletLoss()(x, pids).item()
    assert torch.isfinite(x.grad).all()


def test_nothing_waits_for_the_device():
    # Tensors on "meta" have no values: reading one, or a shape that depends on one, raises.
    x = torch.zeros(6, 4, device="meta", requires_grad=True)
    loss = BatchHardTripletLoss()(x, torch.zeros(6, device="meta"))
    loss.backward()
    assert loss.shape == () and x.grad.shape == x.shape


@pytest.mark.parametrize("margin", ["hard", -0.1, float("nan"), float("inf"), None, True])
def test_impossible_margin(margin):
    with pytest.raises(ValueError, match="margin must be 'soft' or a number >= 0"):
        BatchHardTripletLoss(margin)


def test_shape_errors():
    with pytest.raises(ValueError, match=r"features must be \(B, D\) and pids .* got \(4,\)"):
        BatchHardTripletLoss()(torch.zeros(4), PIDS)
    with pytest.raises(ValueError, match=r"got \(4, 1\) and \(3,\)"):
        BatchHardTripletLoss()(LINE, PIDS[:3])
