"""GPU, data, weights and folders."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from embae_plugin.doctor import BROKEN, MISSING, OK, guarded, installation
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import build_trunk


@pytest.mark.parametrize(
    ("driver", "cuda", "state", "said"),
    [
        (None, None, MISSING, "the processor is used"),
        ("/bin/nvidia-smi", None, BROKEN, "built without CUDA"),
        ("/bin/nvidia-smi", "13.0", BROKEN, "finds no usable GPU"),
    ],
)
def test_no_gpu(monkeypatch, driver, cuda, state, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(installation.shutil, "which", lambda name: driver)
    found = installation.check_gpu()
    assert found.state == state and said in found.detail and not found.fatal


def test_data_sets(market_root):
    found = {one.name: one for one in installation.check_data(market_root)}
    market = found["data market1501"]
    assert market.state == OK and market.detail.startswith("differs: train ")
    assert found["data viper"].state == MISSING and not found["data viper"].fatal
    assert found["data viper"].fix == f"embae data get viper --root {market_root}"


def test_a_damaged_data_set_is_a_fault(market_root):
    [query] = (market_root / "market1501").rglob("query")
    shutil.rmtree(query)
    found = {one.name: one for one in installation.check_data(market_root)}
    assert found["data market1501"].fatal
    assert found["data market1501"].fix.startswith("embae data get market1501")


def test_no_root(tmp_path):
    [found] = installation.check_data(tmp_path / "absent")
    assert found.fatal and found.fix == f"mkdir -p {tmp_path / 'absent'}"


def test_checkpoint(tmp_path):
    trunk = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0))
    model = EmbAE(trunk, z_id_dim=16, hidden_dim=8).eval()
    path = tmp_path / "a.pth"
    save_bundle(path, Bundle(model, InputSpec.make(64, 32, [0.5] * 3, [0.5] * 3)))
    found = installation.check_checkpoint(str(path))
    assert (found.state, found.detail) == (OK, "mobilenetv1_x0_25, input 64 x 32, 16 numbers")
    absent = guarded("b", lambda: installation.check_checkpoint(str(tmp_path / "b.pth")))
    assert absent.state == MISSING and "does not exist" in absent.detail


def test_weights(tmp_path):
    trunk = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0))
    path = tmp_path / "w.pth"
    torch.save(trunk.net.state_dict(), path)
    assert installation.check_weights(str(path)).state == OK
    fitting = installation.check_weights(str(path), "mobilenetv1_x0_25")
    assert fitting.detail.endswith("fit the trunk mobilenetv1_x0_25")
    with pytest.raises(ValueError, match="do not fit the trunk 'mobilenetv1_x0_5'"):
        installation.check_weights(str(path), "mobilenetv1_x0_5")
    with pytest.raises(FileNotFoundError):
        installation.check_weights(str(tmp_path / "no.pth"))


def test_folders(tmp_path, monkeypatch):
    inside = tmp_path / "not" / "yet"
    found = installation.check_writable("cache", inside)
    assert found.state == OK and "will be made" in found.detail and not inside.parent.exists()
    (tmp_path / "file").write_text("")
    assert installation.check_writable("cache", tmp_path / "file" / "x").state == BROKEN

    def refuse(**kwargs):
        raise PermissionError(13, os.strerror(13), "x")

    monkeypatch.setattr(installation.tempfile, "TemporaryFile", refuse)
    found = installation.check_writable("cache", tmp_path)
    assert found.state == BROKEN and "cannot be written" in found.detail and "chown" in found.fix


def test_cache_folders_follow_their_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "t"))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert installation.cache_folders() == {
        "cache of torch": tmp_path / "t",
        "cache of timm": tmp_path / "huggingface",
    }
