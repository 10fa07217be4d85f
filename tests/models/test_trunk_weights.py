from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from embae_plugin.models.trunk_weights import from_tf_slim, is_tf_slim, load_exactly, read_weights

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}


def same(state) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE},
        {f"module.{key}": value for key, value in STATE.items()},
        {"state_dict": STATE, "rank1": np.float64(0.5), "optimizer": {"lr": np.float32(1)}},
    ],
    ids=["bare", "state_dict", "model", "module.", "numpy"],
)
def test_torch_files_of_all_kinds_are_read(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth"))
    assert same(read_weights(str(tmp_path / "w.pth")))


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path / "model.safetensors"))


class Bomb:
    """Runs a command where a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(how, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    content = {"state_dict": STATE, "extra": Bomb(mark)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"w\.pth hold Python objects other than weights"):
        read_weights(path)
    assert not mark.exists()
    if how == "pickle":  # the file would have worked
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_file_cut_short_is_named(suffix, share, tmp_path):
    path = tmp_path / f"w{suffix}"
    many = {f"layer{i}": torch.randn(40, 40) for i in range(10)}
    save_file(many, path) if suffix == ".safetensors" else torch.save(many, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=rf"trunk weights .*w\{suffix} (are damaged|hold Python)"):
        read_weights(path)


def test_a_text_file_is_no_weight_file(tmp_path):
    (tmp_path / "w.pth").write_text("<html>404 Not Found</html>\n" * 20)
    with pytest.raises(ValueError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_a_folder_and_a_file_without_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth do not exist; embae\.trunk_weights is"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a folder; name the weight file in it"):
        read_weights(tmp_path)
    for content, message in (
        ([1, 2], "hold no weights but a list"),
        ({}, "hold no weights but a dict"),
        ({"a": torch.zeros(1), "b": 3}, "entries that are no tensors: b;"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / "w.pth")


def test_tf_slims_names_are_recognised_and_turned_into_timms():
    slim = {"features.0.0.weight": 0, "features.0.1.bias": 1, "features.1.3.weight": 2}
    assert is_tf_slim(slim)
    # torchvision's MobileNet V2 begins alike.
    assert not is_tf_slim({"features.0.0.weight": 0, "features.1.conv.0.0.weight": 1})
    more = {
        "features.2.0.weight": 3,
        "features.3.1.running_var": 4,
        "features.13.4.weight": 5,
        "features.14.0.weight": 6,
        "classifier.weight": 7,
    }
    assert from_tf_slim({**slim, **more}) == {
        "conv_stem.weight": 0,
        "bn1.bias": 1,
        "blocks.0.0.conv_pw.weight": 2,
        "blocks.1.0.conv_dw.weight": 3,
        "blocks.1.1.bn1.running_var": 4,
        "blocks.4.1.bn2.weight": 5,
        "features.14.0.weight": 6,
        "classifier.weight": 7,
    }


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_weights_that_fit_are_loaded_without_classifier_and_counters():
    source, target = net(), net()
    state = {k: v for k, v in source.state_dict().items() if "tracked" not in k}
    state["classifier.weight"] = torch.zeros(3)
    load_exactly(target, state, ("classifier.",), "t", "w.pth")
    assert all(torch.equal(target.state_dict()[k], v) for k, v in source.state_dict().items())


def test_weights_of_another_network_are_described_and_change_nothing():
    target = net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {**net().state_dict(), "9.weight": torch.zeros(1), "0.weight": torch.zeros(4, 5, 1, 1)}
    del state["2.bias"], state["1.running_mean"]
    with pytest.raises(ValueError) as caught:
        load_exactly(target, state, ("classifier.",), "mobilenetv1", "some/w.pth")
    assert str(caught.value) == (
        "the weights in some/w.pth do not fit the trunk 'mobilenetv1': 2 missing "
        "(1.running_mean, 2.bias); 1 unexpected (9.weight); 1 of another shape (0.weight "
        "(4, 5, 1, 1) instead of (4, 3, 1, 1)). Choose the trunk they belong to with embae.trunk, "
        "or another file with embae.trunk_weights"
    )
    assert all(torch.equal(target.state_dict()[key], value) for key, value in before.items())


def test_a_long_list_of_names_is_cut():
    state = {f"x{i}": torch.zeros(1) for i in range(50)}
    with pytest.raises(ValueError, match=r"50 unexpected \(x0, x1, x2, x3, …\)"):
        load_exactly(net(), {**net().state_dict(), **state}, (), "t", "w.pth")
