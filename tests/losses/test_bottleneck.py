from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embae_plugin.losses import Bottleneck
from embae_plugin.losses.bottleneck import OPEN, cross_covariance, dropout


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def code(rows: int = 64, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=seeded(seed))


def test_nothing_happens_unless_it_is_asked_for():
    z = code()
    assert OPEN.narrow(z, seeded()) is z
    assert OPEN.penalty(code(seed=1), z).item() == 0


def test_noise_is_a_multiple_of_each_units_own_spread():
    z = code(20000, 3) * torch.tensor([1.0, 10.0, 0.0]) + 7
    noise = Bottleneck(noise=2.0).narrow(z, seeded(3)) - z
    assert noise.std(0)[:2].tolist() == pytest.approx([2.0, 20.0], rel=0.03)
    assert noise[:, 2].abs().max() == 0  # a unit that says nothing stays silent
    assert noise.mean(0).abs().max() < 0.5


def test_noise_cannot_be_outgrown():
    # The share of signal in what the decoder gets is the same, however large the code is.
    small, large = (Bottleneck(noise=1.0).narrow(code() * s, seeded(1)) for s in (1.0, 1000.0))
    torch.testing.assert_close(large / 1000, small, rtol=1e-4, atol=1e-5)


def test_variational_adds_unit_noise_and_charges_the_divergence():
    z = code(20000, 4)
    held = Bottleneck(variational=0.1)
    noise = held.narrow(z, seeded(2)) - z
    assert noise.std(0).tolist() == pytest.approx([1.0] * 4, rel=0.03)
    ours = torch.distributions.Normal(z, 1.0)
    nats = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(held.penalty(code(seed=1), z), 0.1 * nats.sum(1).mean())


def test_a_dropped_code_is_that_of_dropout():
    out = Bottleneck(dropout=0.25).narrow(torch.ones(400, 50), seeded())
    assert torch.equal(out, dropout(torch.ones(400, 50), 0.25, seeded()))


def test_dropout_zeroes_its_share_keeps_the_mean_and_follows_its_generator():
    x = torch.full((200, 100), 3.0, requires_grad=True)
    out = dropout(x, 0.25, seeded(0))
    assert set(out.unique().tolist()) == {0.0, 4.0}
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(out, dropout(x, 0.25, seeded(0)))
    assert torch.equal(dropout(x, 0.0, seeded(0)), x)
    out.sum().backward()
    assert torch.equal(x.grad, (out > 0).float() * 4 / 3)


def test_cross_covariance_is_the_mean_squared_correlation():
    a, b = code(40, 3), code(40, 4, seed=1) + code(40, 3)[:, :1]
    table = np.corrcoef(a.double().numpy().T, b.double().numpy().T)[:3, 3:]
    assert cross_covariance(a, b).item() == pytest.approx(np.square(table).mean(), rel=1e-4)
    assert cross_covariance(a, 100 * b + 3).item() == pytest.approx(
        cross_covariance(a, b).item(), rel=1e-4
    )


def test_cross_covariance_of_equal_and_of_constant_codes():
    a = code(30, 1)
    assert cross_covariance(a, -2 * a).item() == pytest.approx(1.0)
    assert cross_covariance(a, torch.ones(30, 2)).item() == 0
    assert cross_covariance(a[:1], a[:1]).item() == 0


def test_decorrelation_moves_both_codes_apart():
    a, b = code().requires_grad_(), (code() + 0.1 * code(seed=2)).requires_grad_()
    held = Bottleneck(decorrelation=3.0)
    before = held.penalty(a, b)
    before.backward()
    with torch.no_grad():
        after = held.penalty(a - 5 * a.grad, b - 5 * b.grad)
    assert after < before
    assert torch.autograd.gradcheck(
        cross_covariance, [code(6, 2).double().requires_grad_(), code(6, 2, 1).double()],
        atol=1e-2, rtol=1e-2, eps=1e-3,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": -1.0}, "noise is -1.0; it must be at least 0"),
        ({"variational": math.inf}, "variational is inf"),
        ({"decorrelation": math.nan}, "decorrelation is nan"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_impossible_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Bottleneck(**settings)
