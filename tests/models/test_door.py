"""Any model in: the embeddings are those of the network's own library."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from embae_plugin import FeatureExtractor, ReID
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.door import open_model, open_network
from embae_plugin.models.trunks import build_trunk
from embae_plugin.models.zoo import published_model
from tests.crops_world import INPUT, tiny_embae, write_crops
from tests.networks import random_network, real_zoo_file, write_zoo_file

ZOO = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> list[str]:
    """Crops of the network's own size, of others, and a narrow one."""
    root = tmp_path_factory.mktemp("crops")
    paths = [str(path) for path in write_crops(root, 2, 2, 1)]
    rng = np.random.default_rng(0)
    for number, size in enumerate(((128, 256), (50, 170), (9, 40))):
        path = root / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def same_as_torchreids(path, arch: str, crops: list[str], tolerance: float) -> None:
    """ReID and FeatureExtractor against torchreid's own extractor on the same file."""
    stock = bridge.FeatureExtractor(arch, str(path), device="cpu", verbose=False)
    expected = stock(crops).numpy()
    reid = ReID.load(path, "cpu")
    assert (reid.input.height, reid.input.width) == (256, 128)
    assert (reid.input.norm_mean, reid.input.norm_std) == ZOO
    ours = reid.embed(crops, normalize=False, tta="none")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, atol=tolerance * scale)
    extractor = FeatureExtractor(arch, str(path), device="cpu", verbose=False)
    np.testing.assert_allclose(extractor(crops).numpy(), expected, atol=tolerance * scale)


@pytest.mark.parametrize(
    "arch", ["osnet_x0_25", "resnet50_fc512", "mobilenetv2_x1_0", "osnet_ain_x0_25", "mlfn"]
)
def test_torchreids_networks_embed_as_in_torchreid(tmp_path, crops, arch):
    same_as_torchreids(write_zoo_file(tmp_path / "model.pth", arch), arch, crops, 1e-5)


def test_the_published_network_embeds_as_in_torchreid(crops):
    path = real_zoo_file()
    same_as_torchreids(path, "osnet_x0_25", crops, 1e-5)
    bundle = open_model(path)
    assert bundle.model.architecture == "osnet_x0_25" and bundle.model.feature_dim == 512


def test_a_network_of_another_input_size_says_so(tmp_path):
    bundle = open_model(write_zoo_file(tmp_path / "h.pth", "hacnn"))
    assert (bundle.input.height, bundle.input.width) == (160, 64)
    net = random_network("hacnn")
    x = torch.randn(2, 3, 160, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(bundle.model(x), net(x))


def test_every_wrapping_of_the_weights_is_the_same_model(tmp_path):
    state = random_network().state_dict()
    body = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    files = {
        "bare.pth": state,
        "no_classifier.pth": body,
        "parallel.pth": {"state_dict": {f"module.{key}": v for key, v in state.items()}},
        "legacy.pth": state,
        "scalar.pth": {"state_dict": state, "rank1": np.float64(0.5), "epoch": np.int64(3)},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name != "legacy.pth")
    save_file({key: value.contiguous() for key, value in body.items()}, tmp_path / "a.safetensors")
    for path in sorted(tmp_path.iterdir()):
        bundle = open_model(path)
        assert bundle.about == {"stage": "network", "network": "torchreid:osnet_x0_25"}
        own = {**bundle.model.trunk.net.state_dict(), **bundle.model.f_emb.state_dict()}
        assert own.keys() == body.keys(), path.name
        assert all(torch.equal(own[key], body[key]) for key in body), path.name


def test_a_timm_network_by_file(tmp_path):
    net = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    bundle = open_model(tmp_path / "net.safetensors", arch="timm:resnet10t")
    x = torch.randn(2, 3, 256, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
        torch.testing.assert_close(bundle.model(x), expected)
    assert (bundle.input.height, bundle.input.width) == (256, 128)


def test_a_timm_network_by_name_needs_its_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises((FileNotFoundError, ValueError), match="resnet10t"):
        open_model("timm:resnet10t")
    with pytest.raises(ValueError, match="unknown trunk 'resnet10x'"):
        open_model("timm:resnet10x")


def test_a_published_model_by_name_comes_from_the_cache(tmp_path, monkeypatch):
    path = real_zoo_file()
    monkeypatch.setenv("EMBAE_CACHE", str(tmp_path))
    cached = published_model("torchreid:osnet_x0_25/msmt17").path
    cached.parent.mkdir(parents=True)
    cached.write_bytes(path.read_bytes())
    one, other = open_model("torchreid:osnet_x0_25/msmt17"), open_model(path)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_architecture_that_does_not_fit_or_is_not_needed(tmp_path):
    path = write_zoo_file(tmp_path / "osnet_x0_25.pth")
    with pytest.raises(ValueError, match="osnet_x0_5"):
        open_model(path, arch="osnet_x0_5")
    with pytest.raises(ValueError, match="resnet_50"):
        open_model(path, arch="resnet_50")
    own = tmp_path / "own.pth"
    save_bundle(own, Bundle(tiny_embae(), INPUT))
    with pytest.raises(ValueError, match="is an EmbAE checkpoint, which knows its network"):
        open_model(own, arch="osnet_x0_25")
    assert open_network(own, arch="osnet_x0_25") is None
    torch.save(tiny_embae().state_dict(), tmp_path / "bare.pth")
    assert open_network(tmp_path / "bare.pth") is None
    assert open_network(path).model.architecture == "osnet_x0_25"
    with pytest.raises(ValueError, match="leave the architecture"):
        open_model("timm:resnet10t", arch="resnet50")


def test_a_file_name_is_no_ground(tmp_path):
    path = write_zoo_file(tmp_path / "resnet50_msmt17.pth")
    assert open_model(path).model.architecture == "osnet_x0_25"


def test_trunk_weights_of_another_network_say_whose_they_are(tmp_path):
    path = write_zoo_file(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="They are those of embae.trunk torchreid:osnet_x0_25"):
        build_trunk("mobilenetv1", str(path))
    trunk = build_trunk("torchreid:osnet_x0_25", str(path))
    state = random_network().state_dict()
    assert torch.equal(trunk.net.conv1.conv.weight, state["conv1.conv.weight"])
