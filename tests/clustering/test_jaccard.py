"""k-reciprocal Jaccard distances against the definition, row by row in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from embae_plugin.clustering import jaccard, neighbours
from embae_plugin.clustering.jaccard import jaccard_distances, reciprocal_sets
from embae_plugin.clustering.neighbours import nearest


def by_definition(x: torch.Tensor, k1: int, k2: int) -> np.ndarray:
    """Zhong et al. 2017, equations 1 to 9 and 11, with loops and sets; ties: the first is nearer.

    Each row counts as its own nearest, and k1 counts the neighbours besides it.
    """
    x = x.double().numpy()
    count = len(x)
    d = np.square(x[:, None] - x[None]).sum(-1)
    np.fill_diagonal(d, -1)
    rank = np.argsort(d, axis=1, kind="stable")
    d = np.maximum(d, 0)

    def reciprocal(k: int) -> list[set[int]]:
        near = [set(rank[i, : k + 1].tolist()) for i in range(count)]
        return [{j for j in near[i] if i in near[j]} for i in range(count)]

    whole, half = reciprocal(k1), reciprocal(max(1, round(k1 / 2)))
    weights = np.zeros((count, count))
    for i in range(count):
        grown = set(whole[i])
        for q in whole[i]:
            if len(half[q] & whole[i]) >= 2 / 3 * len(half[q]):
                grown |= half[q]
        members = sorted(grown)
        near = np.exp(-d[i, members])
        weights[i, members] = near / near.sum()
    if k2 > 1:
        weights = np.stack([weights[rank[i, :k2]].mean(0) for i in range(count)])
    shared = np.minimum(weights[:, None], weights[None]).sum(-1)
    return 1 - shared / (2 - shared)


def people(count: int = 20, shots: int = 6, noise: float = 0.6) -> torch.Tensor:
    """(count · shots, 8) embeddings of length 1 in loose groups."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, 8, generator=generator).repeat_interleave(shots, 0)
    return F.normalize(centres + noise * torch.randn(centres.shape, generator=generator), dim=1)


def whole(found: csr_matrix) -> np.ndarray:
    """(N, N), with distance 1 for the pairs that are not stored, as they share no neighbour."""
    stored = csr_matrix((np.ones(found.nnz), found.indices, found.indptr), found.shape)
    return np.where(stored.toarray() > 0, found.toarray(), 1)


@pytest.mark.parametrize(
    ("k1", "k2"), [(10, 4), (10, 1), (1, 1), (3, 6), (30, 6), (6, 12), (119, 6), (500, 3)]
)
def test_distances_are_those_of_the_definition(k1, k2):
    x = people()
    found = jaccard_distances(x, k1, k2, largest=2.0)
    np.testing.assert_allclose(whole(found), by_definition(x, k1, k2), atol=1e-6)


@pytest.mark.parametrize(("k1", "k2"), [(10, 4), (119, 1)])
def test_shared_weights_are_those_of_full_rows_to_the_bit(k1, k2):
    x = people()
    index = nearest(x, max(k1 + 1, k2))
    rows = jaccard.neighbour_weights(x, index, k1, k2).toarray().astype(np.float64)
    shared = np.minimum(rows[:, None], rows[None]).sum(-1).astype(np.float32)
    distance = np.maximum(1 - shared / (2 - shared), 0)
    np.fill_diagonal(distance, 0)
    assert np.array_equal(whole(jaccard_distances(x, k1, k2, largest=2.0)), distance)


def test_a_query_expansion_over_more_rows_than_there_are_takes_all():
    x = people(count=2, shots=3)
    np.testing.assert_allclose(
        whole(jaccard_distances(x, 2, 50, largest=2.0)), by_definition(x, 2, 6), atol=1e-6
    )


@pytest.mark.parametrize("largest", [0.999, 0.6, 0.2])
def test_pairs_from_largest_on_are_left_out_and_no_others(largest):
    full = by_definition(people(), 10, 4)
    assert np.abs(full - largest).min() > 1e-6  # none in doubt
    found = jaccard_distances(people(), 10, 4, largest=largest)
    stored = np.zeros_like(full, dtype=bool)
    entries = found.tocoo()  # nonzero() would leave out what is stored at distance 0
    stored[entries.row, entries.col] = True
    assert np.array_equal(stored, full < largest)
    np.testing.assert_allclose(found.toarray(), np.where(full < largest, full, 0), atol=1e-6)
    assert 120 < found.nnz < 120 * 120


def test_each_row_is_stored_at_distance_0_to_itself_and_both_ways_agree():
    found = jaccard_distances(people(), 10, 4)
    assert np.array_equal(found.toarray(), found.toarray().T)
    assert not found.diagonal().any()
    found.data[:] = 1  # a distance that is stored, though it is 0
    assert found.diagonal().all()


def test_small_blocks_change_nothing(monkeypatch):
    once = jaccard_distances(people(), 10, 4)
    for size in (1, 500):
        monkeypatch.setattr(neighbours, "BLOCK", size)
        for name in ("_CELLS", "_PAIRS", "_ROWS"):
            monkeypatch.setattr(jaccard, name, size)
        parts = jaccard_distances(people(), 10, 4)
        assert np.array_equal(once.indices, parts.indices)
        assert np.array_equal(once.indptr, parts.indptr)
        np.testing.assert_allclose(parts.data, once.data, atol=1e-6)


def test_twins_are_at_distance_0_and_stored():
    x = people(count=6, shots=4).repeat_interleave(2, 0)  # rows 2n and 2n + 1 are the same
    found = jaccard_distances(x, 5, 2)
    row = np.arange(0, 48, 2)
    assert np.abs(np.asarray(found[row, row + 1])).max() < 1e-6
    found.data[:] = 1
    assert np.asarray(found[row, row + 1]).all()


@pytest.mark.parametrize("k2", [1, 3])
def test_rows_that_are_all_the_same_have_distances_from_0_to_1(k2):
    found = whole(jaccard_distances(torch.ones(12, 4) / 2, 3, k2, largest=2.0))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    all_mutual = jaccard_distances(torch.ones(12, 4) / 2, 11, 1, largest=2.0)
    assert all_mutual.nnz == 144 and all_mutual.toarray().max() < 1e-6


def test_the_nearest_come_first_with_the_row_itself_before_its_twins():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    index = nearest(x, 3)
    assert index[:, 0].tolist() == [0, 1, 2, 3]
    assert index[0, 1:].tolist() == [2, 3] and index[2, 1:].tolist() == [0, 3]
    assert index[1].tolist()[:2] == [1, 3]


@pytest.mark.parametrize("count", range(40, 60))
@pytest.mark.parametrize("k", [1, 4, 13])
def test_equal_rows_come_in_their_order_and_are_cut_in_it(count, k):
    """Rounding, which differs by column, would choose among the twins at the cut."""
    draw = torch.Generator().manual_seed(count)
    once = F.normalize(torch.randn(5, 257, generator=draw), dim=1)
    x = once[torch.randint(5, (count,), generator=draw)]
    far = (x.double()[:, None] - x.double()[None]).square().sum(2).fill_diagonal_(-1)
    assert torch.equal(nearest(x, k), far.argsort(dim=1, stable=True)[:, :k])


def crowd() -> torch.Tensor:
    """(1,200, 64) embeddings of length 1, of 150 people."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(150, 64, generator=draw).repeat_interleave(8, 0)
    return F.normalize(x + torch.randn(x.shape, generator=draw), dim=1)


@pytest.mark.parametrize("block", [1 << 26, 5000])
def test_the_nearest_are_those_of_double_precision(monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    x = crowd()
    far = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest(x, 31), far.fill_diagonal_(-1).argsort(dim=1)[:, :31])


def test_an_approximate_search_finds_nearly_all_and_each_row_itself(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "MANY", 100)
    x = crowd()
    exact, found = nearest(x, 8), nearest(x, 8, "auto")
    assert torch.equal(found[:, 0], torch.arange(1200))
    assert all(len(set(row)) == 8 and min(row) >= 0 for row in found.tolist())
    hits = (found[:, :, None] == exact[:, None]).any(2).float().mean()
    assert 0.3 < hits < 1, "some are missed, as it reads a part of the lists"
    monkeypatch.setattr(neighbours, "_READ", 1.0)
    assert torch.equal(nearest(x, 8, "auto"), exact)
    monkeypatch.setattr(neighbours, "faiss_or_none", lambda: None)
    assert torch.equal(nearest(x, 8, "auto"), exact)


def test_rows_whose_lists_hold_too_few_are_compared_with_all():
    pytest.importorskip("faiss")
    x = crowd()
    assert torch.equal(nearest(x, 1200, "approximate"), nearest(x, 1200))


def test_reciprocal_sets_by_hand():
    # On a line at 0, 1, 3: 0 and 1 are each other's nearest; 1 is the nearest of 3, not the
    # other way round.
    index = nearest(torch.tensor([[0.0], [1.0], [3.0]]), 3)
    found = reciprocal_sets(index.numpy(), 1).toarray()
    assert found.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_two_rows_are_enough():
    x = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), dim=1)
    np.testing.assert_allclose(
        whole(jaccard_distances(x, largest=2.0)), by_definition(x, 30, 2), atol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "k1", "k2"), [((1, 4), 3, 2), ((0, 4), 3, 2), ((8,), 3, 2), ((8, 4), 0, 2),
                            ((8, 4), 3, 0)]
)
def test_what_cannot_be_compared_is_refused(shape, k1, k2):
    with pytest.raises(ValueError, match=f"k1 {k1} and k2 {k2}: there must be at least 2 rows"):
        jaccard_distances(torch.ones(shape), k1, k2)
