from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from embae_plugin.models import inference
from embae_plugin.models.activated_conv import ActivatedConv, can_activate
from embae_plugin.models.inference import fuse_for_inference
from embae_plugin.models.trunks import Trunk, build_trunk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int) -> torch.Tensor:
    x = 9 * torch.randn(*shape, generator=generator(1))  # far enough for both ends of ReLU6
    return x.contiguous(memory_format=torch.channels_last)


def activated(net: nn.Module) -> int:
    return sum(isinstance(module, ActivatedConv) for module in net.modules())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
        {"kernel_size": (5, 1), "padding": (2, 0)},
    ],
)
def test_it_is_the_convolution_and_the_activation(activation, options):
    conv = nn.Conv2d(8, 12, **options)
    fused = ActivatedConv(conv, activation)
    x = draw(3, 8, 16, 9)
    expected = activation(conv(x))
    assert torch.equal(fused(x), expected)  # with gradients, one after the other
    for given in (x, x.contiguous(), x[:0], x.double()):
        if given.dtype == torch.float64:
            fused, expected = fused.double(), expected.double()
        with torch.inference_mode():
            torch.testing.assert_close(fused(given), expected[: len(given)], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(16, 8), (15, 8), (16, 9), (2, 2), (1, 1)])
@pytest.mark.parametrize("groups", [1, 8])
def test_tensorflows_padding(size, groups):
    conv = Conv2dSame(8, 16, 3, stride=2, groups=groups)
    assert can_activate(conv)
    x = draw(2, 8, *size)
    with torch.inference_mode():
        expected = torch.relu(conv(x))
        torch.testing.assert_close(
            ActivatedConv(conv, nn.ReLU())(x), expected, atol=1e-4, rtol=1e-4
        )


def test_all_activations_of_the_tensorflow_arrangement_are_folded():
    trunk = build_trunk("mobilenetv1_tf", "", generator())
    fused = fuse_for_inference(trunk)
    assert activated(fused) == 27
    x = draw(1, 3, 65, 32)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), trunk.eval()(x), atol=1e-4, rtol=1e-4)


def test_gradients_are_as_ever():
    conv = nn.Conv2d(3, 4, 3)
    x = draw(2, 3, 8, 8).requires_grad_()
    ActivatedConv(conv, nn.ReLU())(x).sum().backward()
    own = x.grad.clone()
    x.grad = None
    torch.relu(conv(x)).sum().backward()
    assert torch.equal(own, x.grad)


@pytest.mark.parametrize(
    "options", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}]
)
def test_other_paddings_are_left_alone(options):
    assert not can_activate(nn.Conv2d(3, 4, 3, **options))


def test_all_of_mobilenets_activations_are_folded_and_its_features_the_same(monkeypatch):
    trunk = build_trunk("mobilenetv1_x0_25", "", generator())
    fused = fuse_for_inference(trunk)
    assert activated(fused) == 27
    assert not any(isinstance(module, (nn.ReLU, nn.ReLU6)) for module in fused.modules())
    monkeypatch.setattr(inference, "can_activate", lambda conv: False)
    plain = fuse_for_inference(trunk)
    assert activated(plain) == 0
    x = draw(3, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), atol=1e-6, rtol=1e-5)


def test_without_the_operation_the_trunk_is_as_before(monkeypatch):
    def missing(self, x):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(ActivatedConv, "forward", missing)
    assert activated(fuse_for_inference(build_trunk("mobilenetv1_x0_25", "", generator()))) == 0


class Awkward(nn.Module):
    """One activation serves two convolutions, and one convolution's output is used before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.shared, self.own = nn.ReLU(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.b(self.shared(self.a(x))))
        made = self.c(x)
        return (made + self.own(made)).mean((2, 3))


def test_an_activation_that_is_not_the_only_reader_stays():
    fused = fuse_for_inference(Trunk("awkward", Awkward(), 3, (0, 0, 0), (1, 1, 1)))
    assert activated(fused) == 0
