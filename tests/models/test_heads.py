from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from embae_plugin.models.dense import Decoder, DenseHead
from embae_plugin.models.heads import HeadBank

IN, HIDDEN, OUT = 7, 11, 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, IN, generator=generator(seed), dtype=torch.double)


def make_heads(count: int, order: str = "relu_bn") -> list[DenseHead]:
    """Heads in double precision whose batch norm has been trained a little."""
    heads = []
    for index in range(count):
        draw = generator(index)
        head = DenseHead(IN, HIDDEN, OUT, order, draw).double()
        with torch.no_grad():
            head.bn.weight.uniform_(0.5, 2.0, generator=draw)
            head.bn.bias.uniform_(-1.0, 1.0, generator=draw)
            head.bn.running_mean.uniform_(-1.0, 1.0, generator=draw)
            head.bn.running_var.uniform_(0.5, 2.0, generator=draw)
        heads.append(head)
    return heads


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ["relu_bn", "bn_relu"])
def test_a_head_is_its_four_layers(order, training):
    head = make_heads(1, order)[0].train(training)
    between = [nn.ReLU(), copy.deepcopy(head.bn)]
    layers = nn.Sequential(
        copy.deepcopy(head.fc1),
        *(between if order == "relu_bn" else reversed(between)),
        copy.deepcopy(head.fc2),
    ).train(training)
    h = features(9)
    torch.testing.assert_close(head(h), layers(h))
    norm = next(layer for layer in layers if isinstance(layer, nn.BatchNorm1d))
    torch.testing.assert_close(head.bn.running_mean, norm.running_mean)
    torch.testing.assert_close(head.bn.running_var, norm.running_var)
    assert int(head.bn.num_batches_tracked) == int(training)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_head_takes_a_training_batch_without_variance(rows):
    head = make_heads(1)[0].train()
    before = copy.deepcopy(head.state_dict())
    h = features(rows)
    torch.testing.assert_close(head(h), copy.deepcopy(head).eval()(h))
    assert head(h).shape == (rows, OUT)
    assert all(torch.equal(before[k], v) for k, v in head.state_dict().items())


def bank_of(heads: list[DenseHead]) -> HeadBank:
    """A bank of copies of heads; its linear weights are (in, out)."""
    bank = HeadBank(len(heads), IN, HIDDEN, OUT, heads[0].order, generator()).double()
    stacked = {}
    for name in heads[0].state_dict():
        stack = torch.stack([head.state_dict()[name] for head in heads])
        stacked[name.removeprefix("bn.") if "running" in name or "num" in name
                else name.replace(".", "_")] = stack.mT if stack.ndim == 3 else stack
    bank.load_state_dict(stacked)
    return bank.train(heads[0].training)


def check_bank_against_heads(heads, h, group, bank_forward) -> None:
    """Values, gradients of inputs and parameters, and running statistics; two steps in a row."""
    bank = bank_of(heads)
    for _ in range(2):
        ours = h.clone().requires_grad_()
        theirs = h.clone().requires_grad_()
        result = bank_forward(bank, ours)
        expected = h.new_zeros(len(h), OUT)
        for index, head in enumerate(heads):
            if bool((group == index).any()):
                expected[group == index] = head(theirs[group == index])
        torch.testing.assert_close(result, expected)
        weight = torch.randn(result.shape, generator=generator(5), dtype=torch.double)
        bank.zero_grad()
        (result * weight).sum().backward()
        for head in heads:
            head.zero_grad()
        (expected * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
        grads = bank_of(heads)
        for name in ("fc1", "bn", "fc2"):
            for kind in ("weight", "bias"):
                stack = torch.stack([gradient(getattr(getattr(x, name), kind)) for x in heads])
                own = getattr(bank, f"{name}_{kind}").grad
                torch.testing.assert_close(own, stack.mT if stack.ndim == 3 else stack)
        for key, value in grads.state_dict().items():
            torch.testing.assert_close(bank.state_dict()[key], value)


def gradient(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


GROUPS = {
    "balanced": [0, 1, 2, 3] * 3,
    "in order": [0, 0, 1, 1, 2, 2, 3, 3],
    "unequal": [3, 0, 0, 1, 2, 0, 1, 0, 3, 2, 0],
    "absent": [2, 2, 0, 2, 0],
    "equal, some absent": [3, 1, 3, 1],
    "a single row": [0, 1, 1, 1, 3, 0],
    "single rows only": [2, 0],
    "one group": [1] * 5,
    "one dominates": [0] * 30 + [1, 2, 3, 3],
}


@pytest.mark.parametrize("order", ["relu_bn", "bn_relu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", GROUPS)
def test_a_bank_is_separate_heads(case, training, order):
    group = torch.tensor(GROUPS[case])
    heads = [head.train(training) for head in make_heads(4, order)]
    check_bank_against_heads(heads, features(len(group)), group, lambda b, h: b(h, group))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_a_balanced_batch_is_separate_heads(rows, training):
    heads = [head.train(training) for head in make_heads(3)]
    group = torch.arange(3).repeat_interleave(rows)
    check_bank_against_heads(
        heads,
        features(3 * rows),
        group,
        lambda bank, h: bank.forward_grouped(h.view(3, rows, IN)).flatten(0, 1),
    )


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_an_empty_latent_and_can_be_differentiated(training):
    bank = bank_of(make_heads(2)).train(training)
    before = copy.deepcopy(bank.state_dict())
    latent = bank(features(0), torch.zeros(0, dtype=torch.long))
    assert latent.shape == (0, OUT)
    latent.sum().backward()
    assert all(torch.equal(before[k], v) for k, v in bank.state_dict().items())


def test_a_lone_row_that_is_not_finite_spoils_no_other_group():
    bank = bank_of(make_heads(3)).train()
    h = features(5)
    h[0] = float("inf")
    latent = bank(h, torch.tensor([0, 1, 1, 2, 2]))
    assert bool(torch.isfinite(latent[1:]).all())
    assert all(bool(torch.isfinite(buffer).all()) for buffer in bank.buffers())


def test_groups_may_be_of_any_integer_type():
    bank = bank_of(make_heads(3)).eval()
    h, group = features(4), torch.tensor([2, 0, 0, 1])
    for kind in (torch.int32, torch.int16, torch.uint8):
        torch.testing.assert_close(bank(h, group.to(kind)), bank(h, group))


@pytest.mark.parametrize(("bad", "shown"), [(3, "found 3"), (-1, "found -1")])
def test_a_group_without_a_head_is_refused(bad, shown):
    bank = bank_of(make_heads(3))
    with pytest.raises(ValueError, match=rf"must lie in 0\.\.2 for 3 heads, {shown}"):
        bank(features(3), torch.tensor([0, bad, 1]))


def test_shapes_that_do_not_fit_are_refused():
    bank = bank_of(make_heads(3))
    with pytest.raises(
        ValueError, match=r"takes h \(B, 7\) and group \(B,\), not \(2, 7\) and \(3"
    ):
        bank(features(2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"takes h \(B, 7\)"):
        bank(torch.zeros(2, 8).double(), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="must hold integers, not torch.float32"):
        bank(features(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"is \(G = 3 heads, n, 7\), not \(2, 4, 7\)"):
        bank.forward_grouped(features(2, 4))


def test_impossible_banks_and_heads_are_refused():
    with pytest.raises(ValueError, match="at least one head, not 0"):
        HeadBank(0, IN, HIDDEN, OUT)
    with pytest.raises(ValueError, match="one of relu_bn, bn_relu, not 'bn'"):
        DenseHead(IN, HIDDEN, OUT, order="bn")


@pytest.mark.parametrize(
    "make",
    [
        lambda g: DenseHead(64, 100, 32, generator=g),
        lambda g: HeadBank(3, 64, 100, 32, generator=g),
        lambda g: Decoder(64, 100, 32, generator=g),
    ],
    ids=["head", "bank", "decoder"],
)
def test_initial_weights_follow_pytorchs_law_and_their_generator(make):
    state = torch.get_rng_state()
    first, again, other = make(generator(1)), make(generator(1)), make(generator(2))
    assert torch.equal(torch.get_rng_state(), state)
    reset = make(generator(7))
    reset.reset_parameters(generator(1))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert torch.equal(value, reset.state_dict()[key])
        if "fc" not in key:
            continue
        assert not torch.equal(value, other.state_dict()[key])
        # As nn.Linear: uniform in ±1/√in, so of standard deviation 1/√(3 in).
        bound = (64 if "fc1" in key else 100) ** -0.5
        assert float(value.abs().max()) <= bound
        assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.2)


def test_reset_forgets_the_running_statistics():
    bank = bank_of(make_heads(2)).train()
    bank(features(6), torch.tensor([0, 1] * 3))
    bank.reset_parameters(generator(0))
    assert bool((bank.running_mean == 0).all()) and bool((bank.running_var == 1).all())
    assert bank.num_batches_tracked.tolist() == [0, 0]


def test_dense_parts_keep_their_precision_under_autocast():
    h = features(6).float()
    group = torch.tensor([0, 1, 1, 0, 0, 1])
    parts = {
        "head": (DenseHead(IN, HIDDEN, OUT, generator=generator()), (h,)),
        "bank": (HeadBank(2, IN, HIDDEN, OUT, generator=generator()), (h, group)),
        "decoder": (Decoder(IN, HIDDEN, OUT, generator=generator()), (h,)),
    }
    for name, (part, inputs) in parts.items():
        expected = copy.deepcopy(part)(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(part(*inputs), expected), name
            half = part(inputs[0].bfloat16(), *inputs[1:])
        assert half.dtype == torch.float32, name


def test_the_decoder_is_linear_relu_linear():
    decoder = Decoder(3, 4, 2, generator())
    x = torch.randn(5, 3, generator=generator(3))
    expected = (x @ decoder.fc1.weight.T + decoder.fc1.bias).clamp(min=0)
    torch.testing.assert_close(decoder(x), expected @ decoder.fc2.weight.T + decoder.fc2.bias)
