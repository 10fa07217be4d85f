"""Large galleries: what is scaled, what is said of the growth."""

from __future__ import annotations

from pathlib import Path

import pytest

from embae_plugin.lab.benchmark import ranking_speed as growth
from tests.lab.benchmark.tiny import SameProcess, tiny_context


def test_growth_in_words() -> None:
    said = growth.growth_note([1000, 4000], [1.0, 16.0], [500.0, 506.0])
    assert "4 times the gallery takes 16 times as long (a power of 2.00)" in said
    assert "2.00 MB more for each 1,000 images" in said


def test_torchreid_is_scaled_by_its_queries_and_ours_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def probe(*arguments: object) -> tuple[list[float], float, float]:
        asked.append(arguments)
        ours, num_gallery = arguments[0], arguments[2]
        return ([float(str(num_gallery)) / 100], 50.0, 60.0) if ours else ([7.0], 50.0, 80.0)

    monkeypatch.setattr(growth, "FreshProcess", SameProcess)
    monkeypatch.setattr(growth, "probe", probe)
    small, small_mb, large, large_mb, growing = growth.growth_rows(tiny_context(tmp_path), "cpu")
    assert asked == [
        (True, 12, 200, 8, 1, "cpu"), (False, 4, 200, 8, 1), (True, 12, 400, 8, 1, "cpu")
    ]
    assert small.stock is not None and small.stock.values == (21.0,)  # 7 s × 12 / 4 queries
    assert small.ours is not None and small.ours.values == (2.0,)
    assert small_mb.stock is not None and small_mb.stock.values == (140.0,)  # 50 + 30 × 3
    assert (small_mb.floor, small_mb.ratio) == (50.0, pytest.approx(140 / 60))
    assert large.stock is None and large_mb.stock is None and "not run" in large.note
    assert "a power of 1.00" in growing.note


def test_a_probe_ranks_on_either_side() -> None:
    for ours in (True, False):
        runs, before, peak = growth.probe(ours, 5, 120, 4, repeats=2)
        assert len(runs) == 2 and min(runs) > 0
        assert 0 < before <= peak
