"""Equal embeddings are found by their bits, and tie whatever a matrix product rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embae_plugin.evaluation import distances, equal_rows, evaluate_embeddings
from embae_plugin.evaluation.equal_rows import equal_rows as find
from tests.evaluation.brute_force import Retrieval, brute_force

WIDTHS = [1, 7, 37, 128, 129, 513]


def groups_by_hand(matrix) -> list[list[int]]:
    rows = [tuple(row) for row in np.asarray(matrix, dtype=np.float64).tolist()]  # -0.0 == 0.0
    sets = [[n for n, other in enumerate(rows) if other == row] for row in dict.fromkeys(rows)]
    return [members for members in sets if len(members) > 1]


def groups(matrix) -> list[list[int]]:
    found = find(matrix)
    assert (np.diff(found.rows) > 0).all() and (np.diff(found.first) > 0).all()
    sets = [found.rows[found.group == n].tolist() for n in range(len(found.first))]
    assert [members[0] for members in sets] == found.first.tolist()
    return sets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_groups_by_hand(monkeypatch, dtype, width):
    monkeypatch.setattr(equal_rows, "_AT_ONCE", 5)
    generator = torch.Generator().manual_seed(width)
    once = torch.randn(30, width, generator=generator, dtype=dtype)
    drawn = once[torch.randint(30, (60,), generator=generator)]
    assert groups(drawn) == groups_by_hand(drawn) != []
    assert groups(drawn.T.contiguous().T) == groups_by_hand(drawn)
    assert groups(once) == []
    assert groups(once[:1].expand(9, width)) == [list(range(9))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_one_sum_are_told_apart(dtype):
    """Signs, orders and few digits, of which many rows share a key."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(-1, 2, (300, 4), generator=generator).to(dtype)
    zeros = torch.where(signs == 0, -torch.zeros_like(signs), signs)
    assert groups(torch.cat([signs, zeros])) == groups_by_hand(torch.cat([signs, zeros]))
    assert groups(signs[:, [0]] * 0.0 * signs[:, [1]]) == [list(range(300))]  # 0.0 and -0.0
    row = torch.randn(6, generator=generator, dtype=dtype)
    orders = torch.stack([row[torch.randperm(6, generator=generator)] for _ in range(200)])
    assert groups(orders) == groups_by_hand(orders)
    coarse = torch.randn(400, 1, generator=generator).bfloat16().to(dtype)
    assert groups(coarse) == groups_by_hand(coarse) != []


def test_one_bit_is_a_difference():
    row = torch.full((1, 8), 0.3)
    near = row.clone()
    near[0, 5] = torch.nextafter(near[0, 5], torch.tensor(1.0))
    assert groups(torch.cat([row, near, row])) == [[0, 2]]


def repeated(width: int, queries: int = 37, gallery: int = 203, once: int = 40) -> Retrieval:
    """Every gallery embedding about five times, of several people and cameras."""
    data = Retrieval.random(width, queries, gallery, identities=6, cameras=3, dim=width)
    drawn = np.random.default_rng(width).integers(min(once, gallery), size=gallery)
    data.g_emb = data.g_emb[drawn]
    data.q_emb[::3] = np.resize(data.g_emb, (len(data.q_emb[::3]), width))  # of the gallery, too
    return data


def assert_as_by_hand(data: Retrieval, scores) -> None:
    for protocol in ("market", "nd"):
        cmc, mean_ap, trapezoid, dropped = brute_force(data.distmat, *data.ids, protocol, 50)
        ours = scores[protocol]
        np.testing.assert_allclose(ours.cmc, cmc, atol=1e-12)
        np.testing.assert_allclose([ours.mAP, ours.mAP_trapezoid], [mean_ap, trapezoid], atol=1e-12)
        assert ours.dropped_queries == dropped


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gallery", [5, 50, 203, 1021])
def test_repeated_embeddings_tie(width, gallery):
    """float64 distances of each pair of rows, which are equal for equal rows, are the oracle."""
    data = repeated(width, gallery=gallery)
    assert_as_by_hand(data, evaluate_embeddings(*data.args))


@pytest.mark.parametrize("block_bytes", [10_000, 10**6])
def test_a_product_may_round_by_column(monkeypatch, block_bytes):
    """A processor whose kernels round more unlike one another than any that there is."""
    exact = torch.mm

    def by_column(a, b, out=None):
        made = exact(a, b, out=out)
        return made.mul_(1 + 2e-7 * (torch.arange(made.shape[1]) % 5))

    data = repeated(37)
    expected = evaluate_embeddings(*data.args)
    monkeypatch.setattr(torch, "mm", by_column)
    assert_as_by_hand(data, evaluate_embeddings(*data.args, block_bytes=block_bytes))
    data.g_emb[:] = data.g_emb[0]
    scores = evaluate_embeddings(*data.args, block_bytes=block_bytes)
    assert_as_by_hand(data, scores)
    assert scores["market"].mAP < expected["market"].mAP


@pytest.mark.parametrize("gallery", range(1, 70, 4))
def test_one_point_is_ranked_as_badly_as_it_should(gallery):
    data = Retrieval.random(gallery, 9, gallery, identities=3, dim=129)
    data.g_emb[:] = data.g_emb[0]
    assert_as_by_hand(data, evaluate_embeddings(*data.args))


@pytest.mark.parametrize("block_bytes", [3000, 10_000, 10**6])  # of 9, 18 rows; of all
@pytest.mark.parametrize("at_once", [3, 4096])
def test_blocks_threads_and_order_change_nothing(monkeypatch, block_bytes, at_once):
    """Equal embeddings in several pieces of a block tie, too."""
    monkeypatch.setattr(distances, "LEVELLED_AT_ONCE", at_once)
    monkeypatch.setattr(distances, "MAX_ROWS", 16)
    monkeypatch.setattr(distances, "MIN_ROWS", 16)
    data = repeated(129, gallery=307)
    order = np.random.default_rng(0).permutation(307)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert_as_by_hand(data, evaluate_embeddings(*data.args, block_bytes=block_bytes))
            for x in ("g_emb", "g_pids", "g_camids"):
                setattr(data, x, getattr(data, x)[order])
    finally:
        torch.set_num_threads(before)


def test_zeros_of_either_sign_are_one_point():
    data = Retrieval.random(0, queries=9, gallery=36, cameras=2, dim=2)
    data.g_emb[:] = [[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0], [-0.0, -1.0]] * 9
    x, y = map(torch.from_numpy, data.args[:2])
    made = distances.EmbeddingDistances(x, y, torch.arange(9), torch.arange(36))
    assert all(len(torch.unique(row)) == 2 for row in made.block(0, 9, 0, 36))
    assert_as_by_hand(data, evaluate_embeddings(*data.args))


@pytest.mark.parametrize("start, stop", [(0, 203), (0, 101), (50, 180), (202, 203)])
def test_a_distance_is_the_same_in_every_piece(monkeypatch, start, stop):
    monkeypatch.setattr(distances, "LEVELLED_AT_ONCE", 7)
    data = repeated(37)
    x, y = torch.from_numpy(data.q_emb), torch.from_numpy(data.g_emb)
    made = distances.EmbeddingDistances(x, y, torch.arange(37), torch.arange(203))
    whole = made.block(3, 20, 0, 203).clone()
    for members in groups_by_hand(data.g_emb):
        assert (whole[:, members] == whole[:, members[:1]]).all()
    repeats = find(torch.from_numpy(data.g_emb)).rows
    inside = repeats[(repeats >= start) & (repeats < stop)]
    piece = made.block(3, 20, start, stop)
    assert (piece[:, inside - start] == whole[:, inside]).all()
    torch.testing.assert_close(piece, whole[:, start:stop])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_repeated_embeddings_tie_on_the_gpu():
    data = repeated(129)
    assert_as_by_hand(data, evaluate_embeddings(*data.args, device="cuda"))
