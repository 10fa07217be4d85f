"""The paper's learning rates, and generators named by what they are for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from embae_plugin.training.schedule import exponential_lr, seeded


def paper(epoch: int) -> float:
    return exponential_lr(epoch, 400, lr=1e-4, final_lr=1e-7, constant_epochs=100)


def test_the_papers_schedule():
    assert {paper(epoch) for epoch in range(100)} == {1e-4}
    assert paper(100) == pytest.approx(1e-4)
    assert paper(399) == pytest.approx(1e-7)
    rates = [paper(epoch) for epoch in range(100, 400)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_the_decay_is_by_one_factor_an_epoch():
    # three powers of ten over 299 intervals
    for epoch in (100, 250, 398):
        assert paper(epoch + 1) / paper(epoch) == pytest.approx(1e-3 ** (1 / 299))
    assert math.log10(exponential_lr(5, 11, 1.0, 1e-10)) == pytest.approx(-5)


@pytest.mark.parametrize(
    ("max_epoch", "constant", "rates"),
    [
        (1, 0, [1.0]),  # a single epoch is at the first rate
        (2, 0, [1.0, 0.01]),
        (3, 0, [1.0, 0.1, 0.01]),
        (3, 3, [1.0, 1.0, 1.0]),  # nothing left to decay in
        (3, 9, [1.0, 1.0, 1.0]),
        (3, 2, [1.0, 1.0, 1.0]),
    ],
)
def test_short_runs(max_epoch, constant, rates):
    got = [exponential_lr(e, max_epoch, 1.0, 0.01, constant) for e in range(max_epoch)]
    assert got == pytest.approx(rates)


def test_equal_rates_stay_equal():
    assert [exponential_lr(e, 5, 0.5, 0.5) for e in range(5)] == [0.5] * 5


def draw(*names: object) -> float:
    return float(torch.rand(1, generator=seeded(*names), dtype=torch.float64))


def test_a_generator_depends_on_its_names_alone():
    torch.manual_seed(0)
    first = draw(1, "batches", 3)
    torch.manual_seed(1)
    assert draw(1, "batches", 3) == first
    others = [draw(2, "batches", 3), draw(1, "augment", 3), draw(1, "batches", 4),
              draw(1, "batches"), draw("1", "batches", 3), draw(1, "batches", 3, 0)]
    assert len({first, *others}) == 7


def test_generators_are_the_same_on_every_machine_and_in_every_release():
    # a change here changes every result that was ever reported with a seed
    assert seeded(1, "batches", 0).initial_seed() == 3331244052595343498
    assert draw(1, "batches", 0) == pytest.approx(0.46374613009528975, abs=1e-12)


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    torch.rand(3, generator=seeded("anything"))
    assert torch.equal(torch.rand(1), wanted)
