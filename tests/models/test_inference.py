from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from embae_plugin.models.activated_conv import ActivatedConv
from torch import nn

from embae_plugin.models.inference import (
    _InFormat,
    fuse_for_inference,
    inference_format,
    trunk_fingerprint,
)
from embae_plugin.models.trunks import Trunk, build_trunk
from embae_plugin.precision import full_precision


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(trunk: Trunk) -> Trunk:
    """The trunk with batch norms as training leaves them, not as they begin."""
    draw = generator(3)
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.uniform_(-0.3, 0.3, generator=draw)
                module.running_mean.uniform_(-0.3, 0.3, generator=draw)
                module.running_var.uniform_(0.5, 1.5, generator=draw)
    return trunk.train()


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def check(trunk: Trunk, size: tuple[int, int] = (64, 32)) -> nn.Module:
    before = trunk_fingerprint(trunk)
    fused = fuse_for_inference(trunk)
    assert trunk.training and trunk_fingerprint(trunk) == before
    assert not fused.training and not any(p.requires_grad for p in fused.parameters())
    x = torch.randn(3, 3, *size, generator=generator(1))
    with torch.no_grad():
        expected = copy.deepcopy(trunk).eval()(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
    return fused


@pytest.mark.parametrize("name", ["mobilenetv1_x0_25", "mobilenetv1_tf", "mobilenetv3_small_050"])
def test_all_batch_norms_of_timms_networks_are_folded(name):
    fused = check(trained(build_trunk(name, "", generator())))
    assert norms(fused) == 0
    weight = next(p for p in fused.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_all_batch_norms_of_torchreids_networks_are_folded():
    trunk = build_trunk("torchreid:osnet_x0_25", "", generator())
    assert norms(trunk) > 50 and norms(check(trained(trunk))) == 0


class Awkward(nn.Module):
    """Convolutions whose batch norm must not be folded, and one whose can be."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.bn_stem, self.bn_a, self.bn_b, self.bn_s = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn_stem(self.stem(x))
        made = self.twice(x)
        x = self.bn_a(made) + F.relu(self.bn_b(made))
        for _ in range(2):
            x = self.bn_s(self.shared(x))
        return x.mean((2, 3))


def test_only_a_batch_norm_of_its_own_is_folded():
    trunk = trained(Trunk("awkward", Awkward(), 3, (0, 0, 0), (1, 1, 1)))
    assert norms(check(trunk)) == 3


def test_a_sum_in_place_is_no_convolutions_output(caplog):
    """A residual network's ``x += shortcut`` leaves the id of what the convolution made."""
    with caplog.at_level(logging.INFO):
        fused = check(trained(build_trunk("resnet10t", "", generator())))
    assert "left out" not in caplog.text
    kinds = [type(module) for module in fused.modules()]
    assert kinds.count(ActivatedConv) == 7 and kinds.count(nn.ReLU) == 4  # one for each sum


class Branching(nn.Module):
    """The convolution's output is used beside its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x + self.bn(x)).mean((2, 3))


def test_a_network_that_folding_would_change_stays_as_it_is():
    fused = check(trained(Trunk("branching", Branching(), 4, (0, 0, 0), (1, 1, 1))))
    assert norms(fused) == 1


def test_a_fingerprint_names_weights_kind_and_inputs():
    trunk = build_trunk("mobilenetv1_x0_25", "", generator())
    name = trunk_fingerprint(trunk)
    assert len(name) == 16 and int(name, 16) >= 0
    same = copy.deepcopy(trunk).to(memory_format=torch.channels_last)
    same.eval()(torch.zeros(1, 3, 32, 16))
    same.train()
    assert trunk_fingerprint(same) == name
    assert trunk_fingerprint(build_trunk("mobilenetv1_x0_25", "", generator())) == name
    assert trunk_fingerprint(build_trunk("mobilenetv1_x0_25", "", generator(1))) != name
    for change in ("name", "norm_mean", "weight", "statistics"):
        other = copy.deepcopy(trunk)
        if change == "name":
            other.name = "another"
        elif change == "norm_mean":
            other.norm_mean = (0.4, 0.5, 0.5)
        elif change == "weight":
            with torch.no_grad():
                other.net.blocks[0][0].conv_pw.weight[0, 0, 0, 0] += 1e-3
        else:
            other.net.bn1.running_var[0] += 1e-3
        assert trunk_fingerprint(other) != name, change


def test_a_fingerprint_takes_half_precision_and_ignores_counters():
    trunk = build_trunk("mobilenetv1_x0_25", "", generator())
    half = copy.deepcopy(trunk).bfloat16()
    assert trunk_fingerprint(half) != trunk_fingerprint(trunk)
    counted = copy.deepcopy(trunk)
    counted.net.bn1.num_batches_tracked += 5
    assert trunk_fingerprint(counted) == trunk_fingerprint(trunk)


def test_on_a_gpu_images_go_through_the_plain_network_in_its_own_order():
    assert inference_format(torch.device("cuda", 1)) is torch.contiguous_format
    assert inference_format(torch.device("cpu")) is torch.channels_last
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator())).eval()
    x = torch.randn(2, 3, 64, 32, generator=generator(1))
    with torch.inference_mode():
        expected = trunk(x)
        net = _InFormat(copy.deepcopy(trunk).to(memory_format=torch.channels_last),
                        torch.contiguous_format)  # fmt: skip
        found = net(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert all(p.is_contiguous() for p in net.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_on_a_gpu_gives_a_processors_features():
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator())).eval()
    x = torch.randn(3, 3, 64, 32, generator=generator(1))
    net = fuse_for_inference(trunk, torch.device("cuda"))
    with torch.inference_mode(), full_precision(torch.device("cuda")):
        found = net(x.cuda()).cpu()
        torch.testing.assert_close(found, trunk(x), rtol=1e-4, atol=1e-5)
    assert next(trunk.parameters()).device.type == "cpu" and norms(net) == norms(trunk)
