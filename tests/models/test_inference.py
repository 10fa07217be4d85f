from __future__ import annotations

import copy
import logging
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models import onnx_engine
from embae_plugin.models.camera_norm import at_cameras, camera_layers, use_cameras
from embae_plugin.models.inference import (
    Features,
    _InFormat,
    freeze,
    inference_format,
    trunk_fingerprint,
)
from embae_plugin.models.trunks import Trunk, build_trunk
from embae_plugin.precision import full_precision
from tests.models.engines import engine
from tests.threads import one_thread

__all__ = ["engine", "one_thread"]

SIZE = (64, 32)


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


def images(count: int = 3, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=generator(1))


def check(trunk: Trunk, size: tuple[int, int] = SIZE) -> Features:
    """Freezes a trunk, whose features must stay as they are, as must the trunk."""
    before = trunk_fingerprint(trunk)
    frozen = freeze(trunk, size)
    assert trunk.training and trunk_fingerprint(trunk) == before
    assert all(p.requires_grad for p in trunk.parameters())
    twin = copy.deepcopy(trunk).eval()
    with torch.inference_mode():
        for x in (images(3, size), images(1, size), images(4, size).flip(3),
                  images(2, size).contiguous(memory_format=torch.channels_last)):
            found, expected = frozen(x), twin(x)
            assert found.dtype == torch.float32 and found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    return frozen


def by_torch(frozen: Features) -> bool:
    return isinstance(frozen, _InFormat)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv1_x0_25", "mobilenetv1_tf", "mobilenetv3_small_050", "resnet10t",
     "torchreid:osnet_x0_25", "torchreid:osnet_ain_x0_25"],
)
def test_a_frozen_trunk_gives_the_trunk_s_features(name, engine):
    frozen = check(trained(build_trunk(name, "", generator())))
    assert by_torch(frozen) == (engine == "torch")


def test_odd_sizes_pad_as_in_torch(engine):
    check(trained(build_trunk("mobilenetv1_tf", "", generator())), (65, 33))


def test_torch_s_copy_is_in_the_fast_order_and_learns_nothing():
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator()))
    net = freeze(trunk.double(), SIZE)  # float64, which onnxruntime is not given
    assert by_torch(net) and not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    weight = next(p for p in net.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_copy_is_not_changed_by_what_becomes_of_the_trunk(engine):
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator())).eval()
    with torch.inference_mode():
        first, x = freeze(trunk, SIZE), images()
        before = first(x)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(1.1)
        trunk.net.bn1.running_mean += 0.2
    with torch.inference_mode():
        assert torch.equal(first(x), before)
        after = freeze(trunk, SIZE)(x)
        torch.testing.assert_close(after, trunk(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before, rtol=1e-2)


def camera_trunk() -> Trunk:
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator())).eval()
    use_cameras(trunk, 3)
    for layer in camera_layers(trunk):
        layer.running_mean += 0.1 * torch.arange(4.0)[:, None]
        layer.running_var *= 1 + 0.1 * torch.arange(4.0)[:, None]
    return trunk


def test_a_copy_of_each_camera(engine):
    trunk, x, found = camera_trunk(), images(), {}
    with torch.inference_mode():
        for camera in (0, 1, 2, -1):
            with at_cameras(trunk, torch.tensor([camera])):
                expected = trunk(x)
            frozen = freeze(trunk, SIZE, camera=camera)
            assert by_torch(frozen) == (engine == "torch")
            found[camera] = frozen(x)
            torch.testing.assert_close(found[camera], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(freeze(trunk, SIZE)(x), found[-1])
    assert not torch.allclose(found[0], found[1], rtol=1e-2)
    assert len(camera_layers(trunk)) > 10  # the trunk itself is as it was


def test_cameras_and_rounds_of_one_architecture_are_traced_once(monkeypatch):
    pytest.importorskip("onnxruntime")
    calls, trace = [], onnx_engine.traced
    monkeypatch.setattr(onnx_engine, "_graphs", {})
    monkeypatch.setattr(onnx_engine, "traced", lambda *a, **k: calls.append(1) or trace(*a, **k))
    trunk = camera_trunk()
    for camera in (0, 1, -1):
        freeze(trunk, SIZE, camera=camera)
    freeze(trained(build_trunk("mobilenetv1_x0_25", "", generator(2))), SIZE)
    assert len(calls) == 1
    freeze(trunk, (48, 24))
    assert len(calls) == 2


def test_a_graph_made_of_equal_weights_serves_other_ones(monkeypatch):
    """Fresh batch norms are all alike, and an exporter that stores them once loses the others."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_engine, "_graphs", {})
    for trunk in (build_trunk("mobilenetv1_x0_25", "", generator()),
                  trained(build_trunk("mobilenetv1_x0_25", "", generator()))):
        assert not by_torch(check(trunk.train()))
    assert len(onnx_engine._graphs) == 1


def test_threads_get_their_own_features(engine):
    trunk = camera_trunk()
    x, wrong = images(8), []
    copies = [freeze(trunk, SIZE, camera=camera) for camera in (0, 1, 2, -1)]
    with torch.inference_mode():
        expected = [copy(x) for copy in copies]

    def work(number: int) -> None:
        for _ in range(10):
            with torch.inference_mode():
                found = copies[number % 4](x)
            if not torch.allclose(found, expected[number % 4], rtol=1e-5, atol=1e-6):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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


class Branching(nn.Module):
    """The convolution's output is used beside its batch norm, and summed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        y = self.bn(x)
        y += x
        return F.relu(y).mean((2, 3))


@pytest.mark.parametrize(("net", "width"), [(Awkward, 3), (Branching, 4)])
def test_layers_whose_outputs_are_used_twice(net, width, engine):
    frozen = check(trained(Trunk(net.__name__, net(), width, (0, 0, 0), (1, 1, 1))))
    assert by_torch(frozen) == (engine == "torch")


class Odd(nn.Module):
    """A convolution, and what ONNX has no word for, or what tracing gets wrong."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 4, 1), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.kind == "no ONNX graph":
            return torch.fft.fft2(y).abs().mean((2, 3))
        if self.kind == "onnxruntime changes features":  # a branch that tracing does not take
            return (y * 2 if float(x.detach().abs().max()) > 0 else y).mean((2, 3))
        if self.kind == "onnxruntime is left out, it fails":  # two images are a constant there
            return y.reshape(int(y.shape[0]), 4, SIZE[0] * SIZE[1]).mean(2)
        raise ValueError(self.kind)


@pytest.mark.parametrize("kind", ["no ONNX graph", "onnxruntime changes features",
                                  "onnxruntime is left out, it fails"])
def test_what_onnxruntime_cannot_compute_is_left_to_torch(kind, caplog, capfd):
    pytest.importorskip("onnxruntime")
    with caplog.at_level(logging.INFO):
        frozen = check(trained(Trunk(kind, Odd(kind), 4, (0, 0, 0), (1, 1, 1))))
    assert by_torch(frozen) and kind in caplog.text
    assert capfd.readouterr() == ("", "")  # torch's exporter prints the whole graph if let


def test_a_network_without_a_graph_is_traced_once(monkeypatch):
    pytest.importorskip("onnxruntime")
    calls, trace = [], onnx_engine.traced
    monkeypatch.setattr(onnx_engine, "_graphs", {})
    monkeypatch.setattr(onnx_engine, "traced", lambda *a, **k: calls.append(1) or trace(*a, **k))
    trunk = Trunk("odd", Odd("no ONNX graph"), 4, (0, 0, 0), (1, 1, 1))
    for _ in range(3):
        assert by_torch(freeze(trunk, SIZE))
    assert len(calls) == 1


def test_a_session_that_cannot_be_made_leaves_the_trunk_to_torch(monkeypatch, caplog):
    onnxruntime = pytest.importorskip("onnxruntime")

    def broken(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    with caplog.at_level(logging.INFO):
        assert by_torch(check(trained(build_trunk("mobilenetv1_x0_25", "", generator()))))
    assert "onnxruntime does not run mobilenetv1_x0_25: no such operator" in caplog.text


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
                        torch.contiguous_format)
        found = net(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert all(p.is_contiguous() for p in net.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_on_a_gpu_gives_a_processors_features():
    trunk = trained(build_trunk("mobilenetv1_x0_25", "", generator())).eval()
    x = torch.randn(3, 3, 64, 32, generator=generator(1))
    net = freeze(trunk, SIZE, torch.device("cuda"))
    with torch.inference_mode(), full_precision(torch.device("cuda")):
        found = net(x.cuda()).cpu()
        torch.testing.assert_close(found, trunk(x), rtol=1e-4, atol=1e-5)
    assert next(trunk.parameters()).device.type == "cpu" and by_torch(net)
