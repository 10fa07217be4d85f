"""What the machine does at its best."""

from __future__ import annotations

import pytest

from embae_plugin.data.parallel import cpu_count
from embae_plugin.lab.benchmark import machine
from embae_plugin.lab.benchmark.machine import Rates, describe, measure_rates


def test_rates_turn_counts_into_seconds() -> None:
    rates = Rates(flops=2e9, flops_bf16=8e9, bytes=4e9)
    assert rates.operations(1e9) == 0.5
    assert rates.operations(1e9, bf16=True) == 0.125
    assert rates.traffic(1e9) == 0.25
    assert Rates(2e9, 0.0, 4e9).operations(1e9, bf16=True) == 0.5  # no bfloat16 in the hardware


def test_the_best_of_two_measurements_is_the_higher_of_each() -> None:
    assert Rates(1.0, 5.0, 3.0).best(Rates(2.0, 4.0, 1.0)) == Rates(2.0, 5.0, 3.0)


def test_a_rate_is_the_work_over_the_best_of_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine._SIDE, "cpu", 10)
    monkeypatch.setitem(machine._COPIED, "cpu", 100)
    tries = iter([4.0, 2.0, 5.0, 1.0])
    monkeypatch.setattr(machine, "seconds", lambda work, device: next(tries))
    rates = measure_rates("cpu", bf16=False, runs=2)
    assert rates == Rates(flops=2 * 10**3 / 1.0, flops_bf16=0.0, bytes=2 * 100 * 4 / 2.0)


def test_a_report_names_machine_date_and_versions() -> None:
    facts = describe()
    assert {"date", "processor", "memory", "GPU", "versions"} <= facts.keys()
    assert f"{cpu_count()} cores" in facts["processor"]
    assert "torchreid" in facts["versions"]
    line = str(Rates(flops=123e9, flops_bf16=0.0, bytes=45.6e9))
    assert "123 GFLOP/s" in line and "45.6 GB/s" in line and "bfloat16" not in line
