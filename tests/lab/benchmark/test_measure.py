"""Medians, spreads and ratios by hand, and the order in which things are measured."""

from __future__ import annotations

import pytest

from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, cell, not_measured, seconds


def test_median_and_spread_are_the_middle_and_half_the_range() -> None:
    measured = Measured((3.0, 1.0, 2.0, 10.0), "s")
    assert measured.median == 2.5
    assert cell(measured) == "2.5 ± 4.5 s" and cell(Measured((7.0,), "s")) == "7 s"


def test_less_time_and_memory_is_better_and_a_higher_rate_is() -> None:
    for unit in ("s", "ms", "MB"):
        row = Row("a", "b", "cpu", Measured((8.0,), unit), Measured((2.0,), unit), floor=0.5)
        assert row.ratio == 4
        assert row.times_floor == 4
    row = Row("a", "b", "cpu", Measured((8.0,), "img/s"), Measured((40.0,), "img/s"), floor=80.0)
    assert row.ratio == 5
    assert row.times_floor == 2


def test_a_row_without_either_side_has_no_ratio() -> None:
    mine = Measured((2.0,), "s")
    assert Row("a", "b", "cpu", ours=mine).ratio is None
    assert Row("a", "b", "cpu", stock=mine).ratio is None
    assert Row("a", "b", "cpu", ours=mine).times_floor is None
    gap = not_measured("a", "b", "cuda", "no GPU")
    assert (gap.ratio, gap.times_floor, gap.note) == (None, None, "not measured: no GPU")


def test_tasks_take_turns_and_warm_up_rounds_do_not_count() -> None:
    order: list[str] = []

    def task(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = alternate("x", [lambda: task("a"), lambda: task("b")], repeats=2, warm_up=1)
    assert "".join(order) == "ababab"
    assert taken == [(3.0, 5.0), (4.0, 6.0)]


def test_seconds_are_those_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += 1.5

    assert seconds(work) == 1.5
