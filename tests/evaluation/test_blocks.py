"""Blocks, devices, number formats and modes change nothing but time and memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from embae_plugin.evaluation import blockwise, evaluate_embeddings, evaluate_rank
from embae_plugin.evaluation.distances import (
    MAX_ROWS,
    EmbeddingDistances,
    block_shape,
    blocks_at_once,
)
from tests.evaluation.brute_force import Retrieval, brute_force


def assert_equal_scores(first, second, tolerance=0.0):
    for protocol in ("market", "nd"):
        a, b = first[protocol], second[protocol]
        np.testing.assert_allclose(a.cmc, b.cmc, atol=tolerance, rtol=0)
        np.testing.assert_allclose(
            [a.mAP, a.mAP_trapezoid], [b.mAP, b.mAP_trapezoid], atol=tolerance, rtol=0
        )
        assert (a.queries, a.dropped_queries) == (b.queries, b.dropped_queries)


@pytest.mark.parametrize("block_bytes", [1, 2000, 10_000, 10**6])
def test_block_sizes_give_identical_scores(block_bytes):
    data = Retrieval.random(1, queries=101, gallery=200, identities=30, cameras=5)
    data.q_emb, data.g_emb = np.round(data.q_emb * 4), np.round(data.g_emb * 4)  # many ties
    if block_bytes == 1:  # one distance at a time
        data.q_emb, data.q_pids, data.q_camids = data.q_emb[:3], data.q_pids[:3], data.q_camids[:3]
    whole = evaluate_embeddings(*data.args)
    assert_equal_scores(evaluate_embeddings(*data.args, block_bytes=block_bytes), whole)
    cmc, mean_ap, _, _ = brute_force(data.distmat, *data.ids, "nd", 50)
    np.testing.assert_allclose(whole["nd"].cmc, cmc, atol=1e-12)
    assert whole["nd"].mAP == pytest.approx(mean_ap, abs=1e-12)


@pytest.mark.parametrize("cameras", [1, 4, 500])
def test_slice_and_strip_sizes_give_identical_scores(monkeypatch, cameras):
    data = Retrieval.random(2, queries=60, gallery=400, identities=9, cameras=cameras)
    whole = evaluate_embeddings(*data.args)
    monkeypatch.setattr(blockwise, "SLICE_COLUMNS", 7)
    monkeypatch.setattr(blockwise, "STRIP_ROWS", 3)
    assert_equal_scores(evaluate_embeddings(*data.args), whole)


@pytest.mark.parametrize("matches", [0, 17, 400_000])
@pytest.mark.parametrize("num_gallery", [1, 15_913, 500_000, 10**9])
@pytest.mark.parametrize("block_bytes", [64, 10**5, 2**27])
def test_a_block_is_bounded_in_both_dimensions(block_bytes, num_gallery, matches):
    rows, columns = block_shape(3368, num_gallery, matches, 4, block_bytes)
    assert 1 <= rows <= MAX_ROWS and 1 <= columns <= num_gallery
    assert rows * columns * 4 <= block_bytes
    assert rows == 1 or rows * matches * 100 <= block_bytes


@pytest.mark.parametrize("matches", [0, 17, 400_000])
@pytest.mark.parametrize("num_gallery", [1, 15_913, 500_000])
def test_blocks_worked_on_at_once_share_the_bound(num_gallery, matches):
    shape = block_shape(3368, num_gallery, matches, 4, 2**27)
    at_once = blocks_at_once(shape, matches, 4, 2**27)
    assert at_once == 1 or at_once * shape[0] * shape[1] * 4 <= 2**27
    assert at_once == 1 or at_once * shape[0] * matches * 100 <= 2**27


@pytest.mark.parametrize("block_bytes", [10_000, 40_000, 10**6])  # 1, some, all blocks at once
@pytest.mark.parametrize("source", ["embeddings", "matrix"])
def test_the_number_of_threads_changes_nothing(monkeypatch, block_bytes, source):
    data = Retrieval.random(3, queries=90, gallery=300, identities=20, cameras=4)
    monkeypatch.setattr("embae_plugin.evaluation.distances.MAX_ROWS", 16)
    monkeypatch.setattr("embae_plugin.evaluation.ranking.BLOCK_BYTES", block_bytes)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            if source == "matrix":
                cmc, mean_ap = evaluate_rank(data.distmat, *data.ids)
                found.append([*cmc, mean_ap])
            else:
                scores = evaluate_embeddings(*data.args, block_bytes=block_bytes)["nd"]
                found.append([*scores.cmc, scores.mAP, scores.mAP_trapezoid])
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as new:
                assert new.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_an_error_in_a_thread_is_the_callers(monkeypatch):
    def block(self, *where):
        raise MemoryError("no room for a block")

    monkeypatch.setattr(EmbeddingDistances, "block", block)
    data = Retrieval.random(1, queries=40, gallery=200, identities=30)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(MemoryError, match="no room for a block"):
            evaluate_embeddings(*data.args, block_bytes=8000)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_large_gallery_is_read_in_one_piece_where_that_fits():
    assert block_shape(3368, 15_913, 70, 4, 2**27) == (256, 15_913)
    assert block_shape(3368, 500_000, 70, 4, 2**27) == (67, 500_000)
    rows, columns = block_shape(3368, 10**8, 70, 4, 2**27)
    assert rows == 16 and columns == 2**27 // 64


def test_blocks_never_exceed_the_bound(monkeypatch):
    sizes, original = [], EmbeddingDistances.block

    def block(self, *where):
        result = original(self, *where)
        sizes.append(result.numel() * result.element_size())
        return result

    monkeypatch.setattr(EmbeddingDistances, "block", block)
    data = Retrieval.random(1, queries=40, gallery=2000, identities=300)
    evaluate_embeddings(*data.args, block_bytes=20_000)
    assert 10_000 < max(sizes) <= 20_000


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-9), (torch.float32, 0.0), (torch.float16, 0.0), (torch.bfloat16, 0.0)],
)
def test_number_formats(dtype, tolerance):
    """Half-precision values are taken as they are and compared in float32."""
    data = Retrieval.random(4, queries=40, gallery=200, identities=20)
    q_emb, g_emb = (torch.from_numpy(x).to(dtype) for x in (data.q_emb, data.g_emb))
    expected = evaluate_embeddings(q_emb.float(), g_emb.float(), *data.ids)
    assert_equal_scores(evaluate_embeddings(q_emb, g_emb, *data.ids), expected, tolerance)
    distmat = torch.from_numpy(data.distmat).to(dtype)
    expected_rank = evaluate_rank(distmat.double().numpy(), *data.ids)
    assert evaluate_rank(distmat, *data.ids)[1] == expected_rank[1]


def test_whole_numbers_and_read_only_arrays_are_fine(recwarn):
    distmat = np.array([[3, 1, 2]])
    distmat.flags.writeable = False
    assert evaluate_rank(distmat, [1], [1, 1, 2], [0], [1, 1, 1])[1] == pytest.approx(5 / 6)
    np.testing.assert_array_equal(distmat, [[3, 1, 2]])
    assert not recwarn.list


def test_inputs_are_left_alone():
    data = Retrieval.random(4, queries=40, gallery=200)
    distmat = data.distmat
    kept = [x.copy() for x in (data.q_emb, data.g_emb, distmat)]
    evaluate_embeddings(*data.args)
    evaluate_rank(distmat, *data.ids)
    for before, after in zip(kept, (data.q_emb, data.g_emb, distmat), strict=True):
        np.testing.assert_array_equal(before, after)


def test_any_mode_of_the_caller():
    data = Retrieval.random(6, queries=50, gallery=300, identities=30)
    expected = evaluate_embeddings(*data.args)
    q_emb, g_emb = torch.from_numpy(data.q_emb).requires_grad_(), torch.from_numpy(data.g_emb)
    assert_equal_scores(evaluate_embeddings(q_emb, g_emb, *data.ids), expected)
    with torch.inference_mode():
        q_emb, g_emb = q_emb * 1, g_emb * 1
        assert_equal_scores(evaluate_embeddings(q_emb, g_emb, *data.ids), expected)
        evaluate_rank(torch.cdist(q_emb, g_emb), *data.ids)
    assert_equal_scores(evaluate_embeddings(q_emb, g_emb, *data.ids), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_scores(evaluate_embeddings(*data.args), expected)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e20])
def test_scale_does_not_matter(scale):
    data = Retrieval.random(7, queries=50, gallery=300, identities=30)
    expected = evaluate_embeddings(*data.args)
    q_emb, g_emb = data.q_emb * np.float32(scale), data.g_emb * np.float32(scale)
    assert_equal_scores(evaluate_embeddings(q_emb, g_emb, *data.ids), expected, 1e-9)


def test_a_common_offset_does_not_cost_the_digits():
    """|g|^2 - 2 q.g as such has no digit left at this offset."""
    data = Retrieval.random(8, queries=50, gallery=300, identities=30)
    data.q_emb += np.float32(2000)
    data.g_emb += np.float32(2000)
    scores = evaluate_embeddings(*data.args)
    for protocol in ("market", "nd"):
        _, mean_ap, _, _ = brute_force(data.distmat, *data.ids, protocol, 50)
        assert scores[protocol].mAP == pytest.approx(mean_ap, abs=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_scores():
    data = Retrieval.random(1, queries=301, gallery=9000, identities=30, cameras=5)
    expected = evaluate_embeddings(*data.args)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        found = evaluate_embeddings(*data.args, device="cuda")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert_equal_scores(found, expected, 1e-6)
    distmat = torch.from_numpy(data.distmat)
    on_gpu, on_cpu = evaluate_rank(distmat.cuda(), *data.ids), evaluate_rank(distmat, *data.ids)
    assert on_gpu[1] == pytest.approx(on_cpu[1], abs=1e-12)
