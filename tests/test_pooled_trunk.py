from __future__ import annotations

import gdown
import pytest
import torch

from embae_plugin import torchreid_bridge as bridge


@pytest.mark.parametrize(("name", "width"), [("osnet_x0_25", 128), ("shufflenet_v2_x0_5", 1024)])
def test_output_is_the_pooled_features(name, width):
    trunk = bridge.pooled_trunk(name, pretrained=False)
    assert trunk.training and trunk.feature_dim == width
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    assert trunk(x).shape == (2, width)
    trunk.eval()
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), trunk.featuremaps(x).mean(dim=(2, 3)))


def test_state_dict_keys_are_torchreids():
    trunk = bridge.pooled_trunk("osnet_x0_25", pretrained=False)
    stock = bridge.build_model("osnet_x0_25", 7, pretrained=False).state_dict()
    expected = {key for key in stock if not key.startswith(("classifier.", "fc."))}
    assert set(trunk.state_dict()) == expected


@pytest.mark.parametrize("name", ["hacnn", "pcb_p4"])
def test_models_without_one_pooled_feature(name):
    with pytest.raises(ValueError, match=f"'{name}' has no single pooled feature vector"):
        bridge.pooled_trunk(name, pretrained=False)


@pytest.mark.parametrize("name", ["resnet51", "embae_mobilenetv1"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=f"unknown torchreid model '{name}'; available: .*osnet"):
        bridge.pooled_trunk(name, pretrained=False)


def test_random_weights_are_never_passed_off_as_pretrained():
    # torchreid only warns here, and returns random weights.
    with pytest.raises(FileNotFoundError, match=r"weights of torchreid's 'mobilenetv2_x1_0' could"):
        bridge.pooled_trunk("mobilenetv2_x1_0", pretrained=True)


def test_failed_download(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(gdown, "download", offline)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*embae.trunk_weights"):
        bridge.pooled_trunk("osnet_x0_25", pretrained=True)
