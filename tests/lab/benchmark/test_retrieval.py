"""The made-up retrieval and torchreid's scores of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.ranking_speed import (
    agreement,
    cython_evaluator,
    make_retrieval,
    python_evaluator,
    rank_stock,
)


def test_sizes_ids_cameras_and_lengths() -> None:
    data = make_retrieval(40, 3000, 16)
    assert data.q_emb.shape == (40, 16) and data.g_emb.shape == (3000, 16)
    assert data.q_emb.dtype == data.g_emb.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(data.g_emb, axis=1), 1, atol=1e-5)
    assert set(data.g_camids) == set(range(6))
    assert data.q_pids.min() >= 1  # 0 is the background, which nobody looks for


def test_the_same_seed_gives_the_same_retrieval() -> None:
    one, other = make_retrieval(5, 50, 4, seed=3), make_retrieval(5, 50, 4, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one.q_emb, make_retrieval(5, 50, 4, seed=4).q_emb)


def test_a_larger_gallery_has_more_distractors_and_no_more_positives() -> None:
    small = make_retrieval(30, 1000, 4, matched=1000)
    large = make_retrieval(30, 9000, 4, matched=1000)
    assert (small.g_pids > 0).sum() == (large.g_pids > 0).sum()
    assert (large.g_pids == 0).sum() == (small.g_pids == 0).sum() + 8000


def test_torchreid_scores_it_as_we_do() -> None:
    data = make_retrieval(60, 600, 16)
    rank1, mean_ap = rank_stock(data, python_evaluator)
    mine = evaluate_embeddings(*data)["market"]
    assert 0 < rank1 < 1  # neither trivial nor hopeless
    assert mine.rank1 == pytest.approx(rank1, abs=1e-6)
    assert mine.mAP == pytest.approx(mean_ap, abs=1e-5)
    assert agreement(data, python_evaluator) == "same rank-1 and mAP on 60 of the queries"


def test_another_score_is_reported_and_not_hidden() -> None:
    data = make_retrieval(60, 600, 16)
    said = agreement(data, lambda *arguments: (np.array([2.0]), 0.5))
    assert said.startswith("on 60 of the queries rank-1 differs by ")


def test_a_folder_without_the_extension_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no compiled rank_cy.*build_ext --inplace"):
        cython_evaluator(tmp_path)


def test_a_damaged_extension_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "rank_cy.so").write_bytes(b"not a library")
    with pytest.raises(ImportError):
        cython_evaluator(tmp_path)
