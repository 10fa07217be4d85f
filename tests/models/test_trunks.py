from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torch.nn.functional as F

from embae_plugin.models import timm_nets
from embae_plugin.models.trunks import build_trunk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=generator(8)) * 2 - 1


def shared_weights(name: str) -> Path:
    folder = os.environ.get("EMBAE_TEST_WEIGHTS")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"EMBAE_TEST_WEIGHTS names no folder with {name}")
    return Path(folder) / name


# --- names and shapes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "mean"),
    [
        ("mobilenetv1", 1024, 0.5),
        ("mobilenetv1_tf", 1024, 0.5),
        ("mobilenetv1_x0_5", 512, 0.5),
        ("mobilenetv1_x0_25", 256, 0.5),
        ("mobilenetv3_small_050", 1024, 0.485),  # its last convolution is behind the pooling
        ("vit_tiny_patch16_224", 192, 0.5),  # of fixed input size by default
        ("torchreid:osnet_x0_25", 128, 0.485),
        ("torchreid:mobilenetv2_x1_0", 1280, 0.485),
        ("torchreid:densenet121", 1024, 0.485),
    ],
)
def test_a_trunk_gives_pooled_features_in_training_and_evaluation(name, width, mean):
    trunk = build_trunk(name, "", generator())
    assert (trunk.name, trunk.feature_dim, trunk.weights) == (name, width, "random")
    assert trunk.norm_mean[0] == mean and len(trunk.norm_mean) == len(trunk.norm_std) == 3
    assert trunk.training
    for mode in (True, False):
        with torch.no_grad():
            assert trunk.train(mode)(images(64, 32)).shape == (2, width)
    # Nothing is left behind the pooling that an optimiser would carry along.
    trunk.train()(images(64, 32)).sum().backward()
    assert [name for name, p in trunk.named_parameters() if p.grad is None] == []


def test_unknown_names_and_unsuitable_networks_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown trunk 'resnett18'. Did you mean resnet18.*torchreid"
    ):
        build_trunk("resnett18")
    with pytest.raises(ValueError, match="unknown torchreid model 'resnet5'; available:.*resnet50"):
        build_trunk("torchreid:resnet5")
    with pytest.raises(ValueError, match="no single pooled feature"):
        build_trunk("torchreid:pcb_p4")
    with pytest.raises(ValueError, match="Invalid pretrained tag"):
        build_trunk("resnet18.nonsense")


def test_random_weights_follow_the_generator_and_leave_the_global_state():
    state = torch.get_rng_state()
    one, same, other = (build_trunk("mobilenetv1_x0_25", "", generator(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [t.net.conv_stem.weight for t in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    torch.manual_seed(5)
    first = build_trunk("mobilenetv1_x0_25").net.conv_stem.weight
    torch.manual_seed(5)
    assert torch.equal(build_trunk("mobilenetv1_x0_25").net.conv_stem.weight, first)


# --- MobileNet V1 against others --------------------------------------------------------------


def test_mobilenetv1_is_timms(tmp_path):
    theirs = timm.create_model("mobilenetv1_100").eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")  # with its classifier of 1000 classes
    ours = build_trunk("mobilenetv1", str(tmp_path / "timm.pth")).eval()
    assert ours.name == "mobilenetv1"
    with torch.no_grad():
        expected = theirs.forward_features(images(64, 32)).mean((2, 3))
        torch.testing.assert_close(ours(images(64, 32)), expected)


def test_the_narrow_networks_are_mobilenetv1_in_all_but_width():
    full = [tuple(p.shape) for p in build_trunk("mobilenetv1").parameters()]
    half = [tuple(p.shape) for p in build_trunk("mobilenetv1_x0_5").parameters()]
    kept = {1, 3}  # depthwise groups, kernels and colours
    assert half == [tuple(n if n in kept else n // 2 for n in shape) for shape in full]


# Howard et al. (2017), table 1: stride of the depthwise layer and width behind it.
LAYERS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5]
LAYERS += [(2, 1024), (1, 1024)]


def slim_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file converted from TF-slim."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, norm: str, shape: tuple[int, ...]) -> None:
        shapes[f"{name}.weight"] = shape
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{kind}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    layer("features.0.0", "features.0.1", (32, 3, 3, 3))
    width = 32
    for number, (_, wider) in enumerate(LAYERS, start=1):
        layer(f"features.{number}.0", f"features.{number}.1", (width, 1, 3, 3))
        layer(f"features.{number}.3", f"features.{number}.4", (wider, width, 1, 1))
        width = wider
    return shapes


def slim_state() -> dict[str, torch.Tensor]:
    """Random weights that keep activations of about one size through the layers."""
    draw = generator(2)
    state = {}
    for name, shape in slim_shapes().items():
        value = torch.rand(shape, generator=draw)
        if len(shape) == 4:
            value = (value - 0.5) * (8.0 / math.prod(shape[1:])) ** 0.5
        elif not shape:
            value = torch.tensor(1)
        elif name.endswith(("bias", "running_mean")):
            value = value - 0.3
        else:
            value = value + 0.5
        state[name] = value
    return state


def slim_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """MobileNet V1 as TF-slim computes it, written down plainly."""

    def same(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int) -> torch.Tensor:
        # TensorFlow's SAME: as many outputs as strides, the odd pixel of padding at the end.
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        w, b, m, v = (
            state[f"{name}.{kind}"][:, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - m) / (v + 1e-3).sqrt() * w + b).clamp(0, 6)

    x = norm(same(x, state["features.0.0.weight"], 2, 1), "features.0.1")
    for number, (stride, _) in enumerate(LAYERS, start=1):
        name = f"features.{number}"
        x = norm(same(x, state[f"{name}.0.weight"], stride, x.shape[1]), f"{name}.1")
        x = norm(same(x, state[f"{name}.3.weight"], 1, 1), f"{name}.4")
    return x.mean((2, 3))


@pytest.mark.parametrize("size", [(64, 32), (37, 53)])
def test_tf_slims_arrangement_is_computed_as_tensorflow_does(size, tmp_path, caplog):
    state = slim_state()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "slim.pth")
    with caplog.at_level(logging.INFO):
        trunk = build_trunk("mobilenetv1", str(tmp_path / "slim.pth")).eval()
    assert trunk.name == "mobilenetv1_tf"
    assert "TF-slim's arrangement: the trunk is mobilenetv1_tf" in caplog.text
    assert f"weights: {tmp_path / 'slim.pth'}" in caplog.text
    with torch.no_grad():
        expected = slim_forward(state, images(*size))
        torch.testing.assert_close(trunk(images(*size)), expected, rtol=1e-4, atol=1e-4)
        # The comparison can tell paddings and epsilons apart.
        plain = build_trunk("mobilenetv1")
        plain.net.load_state_dict(trunk.net.state_dict())
        assert float((plain.eval()(images(*size)) - expected).abs().max()) > 1e-2
    assert float(expected.std()) > 1e-2


@pytest.mark.parametrize("size", [(256, 128), (161, 75)])
def test_the_real_tf_slim_weights_are_computed_as_tensorflow_does(size):
    path = shared_weights("mobilenetv1_x1_0_imagenet_tfslim.pth")
    state = torch.load(path, weights_only=True)
    assert {name: tuple(value.shape) for name, value in state.items()} == slim_shapes()
    trunk = build_trunk("mobilenetv1", str(path)).eval()
    assert (trunk.norm_mean, trunk.norm_std) == ((0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        expected = slim_forward(state, images(*size))
        torch.testing.assert_close(trunk(images(*size)), expected, rtol=1e-4, atol=1e-4)


def test_tf_slim_weights_fit_no_narrow_network(tmp_path):
    torch.save(slim_state(), tmp_path / "slim.pth")
    with pytest.raises(ValueError, match=r"do not fit the trunk 'mobilenetv1_x0_25': 135 missing"):
        build_trunk("mobilenetv1_x0_25", str(tmp_path / "slim.pth"))


def test_torchreids_mobilenetv2_takes_its_weights_without_the_classifier(tmp_path):
    source = build_trunk("torchreid:mobilenetv2_x1_0", "", generator(4))
    state = {k: v for k, v in source.net.state_dict().items() if "tracked" not in k}
    state["classifier.weight"] = torch.zeros(1000, 1280)
    torch.save(state, tmp_path / "v2.pth")
    trunk = build_trunk("torchreid:mobilenetv2_x1_0", str(tmp_path / "v2.pth"))
    assert torch.equal(trunk.net.conv9.conv.weight, source.net.conv9.conv.weight)
    with pytest.raises(
        ValueError, match=r"do not fit the trunk 'mobilenetv1': .*conv_stem\.weight"
    ):
        build_trunk("mobilenetv1", str(tmp_path / "v2.pth"))


def test_the_real_mobilenetv2_weights_are_loaded():
    path = shared_weights("mobilenetv2_x1_0_imagenet_torchreid_keys.pth")
    state = torch.load(path, weights_only=True)
    trunk = build_trunk("torchreid:mobilenetv2_x1_0", str(path))
    own = trunk.net.state_dict()
    kept = [key for key in state if not key.startswith("classifier.")]
    assert len(kept) == 265 and all(torch.equal(own[key], state[key]) for key in kept)


# --- published weights, without a network -----------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """No hub, and timm would notice being asked to try by itself."""

    def unreachable(url, **kwargs):
        raise ConnectionError("Name or service not known")

    create = timm.create_model

    def never_pretrained(name, pretrained=False, **kwargs):
        assert not pretrained, "timm waits for most of a minute here"
        return create(name, **kwargs)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(timm, "create_model", never_pretrained)


def test_weights_out_of_reach_are_named_with_what_to_do(offline):
    with pytest.raises(FileNotFoundError) as caught:
        build_trunk("mobilenetv1", "imagenet")
    assert str(caught.value) == (
        "the ImageNet weights of 'mobilenetv1_100', model.safetensors of "
        "timm/mobilenetv1_100.ra4_e3600_r224_in1k on the Hugging Face hub, could not be fetched "
        "(ConnectionError: Name or service not known). Download the file elsewhere and pass its "
        "path: embae.trunk_weights /path/to/file"
    )


def test_a_download_that_breaks_off_is_reported_too(monkeypatch):
    create = timm.create_model

    def broken(name, pretrained=False, **kwargs):
        if pretrained:
            raise RuntimeError("connection lost")
        return create(name, **kwargs)

    monkeypatch.setattr(timm_nets, "_reach_hub", lambda *args: None)
    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(FileNotFoundError, match=r"fetched \(RuntimeError: connection lost\)"):
        build_trunk("mobilenetv1", "imagenet")


@pytest.mark.parametrize("where", ["hub", "cache"])
def test_published_weights_are_loaded_and_named(where, monkeypatch, caplog):
    create, asked = timm.create_model, []

    def published(name, pretrained=False, **kwargs):
        net = create(name, **kwargs)
        if pretrained:
            torch.nn.init.constant_(net.conv_stem.weight, 0.125)
        return net

    monkeypatch.setattr(timm, "create_model", published)
    cached = "/cache/model.safetensors" if where == "cache" else None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: cached)
    monkeypatch.setattr(
        huggingface_hub, "get_hf_file_metadata", lambda url, timeout: asked.append((url, timeout))
    )
    with caplog.at_level(logging.INFO):
        trunk = build_trunk("mobilenetv1", "imagenet")
    assert bool((trunk.net.conv_stem.weight == 0.125).all())
    assert "ImageNet, timm/mobilenetv1_100.ra4_e3600_r224_in1k" in caplog.text
    assert trunk.weights in caplog.text
    if where == "hub":
        [(url, timeout)] = asked
        assert url.endswith("ra4_e3600_r224_in1k/resolve/main/model.safetensors") and timeout <= 20
    else:
        assert asked == []


def test_networks_without_published_weights_say_so():
    with pytest.raises(ValueError, match="nobody publishes ImageNet weights for mobilenetv1_x0_5"):
        build_trunk("mobilenetv1_x0_5", "imagenet")
    with pytest.raises(ValueError, match="mobilenetv1_tf, whose padding differs"):
        build_trunk("mobilenetv1_tf", "imagenet")
    with pytest.raises(ValueError, match="timm has no weights for 'mobilenetv2_035'"):
        build_trunk("mobilenetv2_035", "imagenet")


def test_a_torchreid_model_that_only_warns_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"'mobilenetv2_x1_0' could not be.*trunk_weights"):
        build_trunk("torchreid:mobilenetv2_x1_0", "imagenet")


def test_a_missing_file_is_named_before_anything_is_built():
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist; embae\.trunk_weig"):
        build_trunk("mobilenetv1", "absent.pth")
