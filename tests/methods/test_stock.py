"""torchreid's own training with weights and checkpoints from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from embae_plugin.commands.stock_training import load_matching, run_stock
from embae_plugin.settings.config import load_config
from tests.methods.tiny import same_weights
from tests.zoo_files import write_market1501


class Net(nn.Module):
    def __init__(self, people: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk, self.classifier = nn.Linear(3, 4), nn.Linear(4, people)


def test_weights_for_other_people_leave_the_classifier_alone(tmp_path, caplog):
    source, model = Net(5, seed=0), Net(7, seed=1)
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "rank1": np.float32(0.5)}, tmp_path / "w.pth.tar")
    load_matching(model, str(tmp_path / "w.pth.tar"))
    assert same_weights(model.trunk, source.trunk)
    assert same_weights(model.classifier, Net(7, seed=1).classifier)
    assert "2 weights loaded" in caplog.text and "classifier.bias" in caplog.text


def test_weights_for_the_same_people_load_whole_and_quietly(tmp_path, caplog):
    torch.save(Net(5, seed=0).state_dict(), tmp_path / "w.pth")
    model = Net(5, seed=1)
    load_matching(model, str(tmp_path / "w.pth"))
    assert same_weights(model, Net(5, seed=0)) and caplog.text == ""


@pytest.mark.parametrize(("content", "message"), [
    ({"other.weight": torch.zeros(2)}, r"nothing in .*w\.pth fits this model"),
    ([1, 2], r"w\.pth holds no weights but a list"), ({}, r"w\.pth holds no weights: it is empty"),
])
def test_weights_of_another_network_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load_matching(Net(5, seed=0), str(tmp_path / "w.pth"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reid-data")
    write_market1501(root, train_ids=4, test_ids=9, shots=3, size=(16, 32))
    return root


def config(root: Path, save_dir: Path, *options: object):
    return load_config(
        options=[
            "data.root", str(root), "data.save_dir", str(save_dir), "data.height", 64,
            "data.width", 32, "data.workers", 0, "model.name", "embae_mobilenetv1",
            "model.pretrained", False, "use_gpu", False, "train.batch_size", 8,
            "train.max_epoch", 1, *options,
        ]
    )


def test_a_run_goes_on_from_torchreids_checkpoint(root, tmp_path, caplog):
    caplog.set_level("INFO")
    run_stock(config(root, tmp_path / "one"))
    (saved,) = (tmp_path / "one" / "model").glob("model.pth.tar-1")
    more = ("model.resume", str(saved), "train.max_epoch", 2)
    run_stock(config(root, tmp_path / "two", *more))
    assert "after epoch 1" in caplog.text
    assert [path.name for path in (tmp_path / "two" / "model").glob("*tar-*")] == [
        "model.pth.tar-2"
    ]


def test_losses_and_scores_are_logged_and_kept(root, tmp_path, caplog):
    caplog.set_level("INFO")
    run_stock(config(root, tmp_path, "train.print_freq", 1))
    assert "epoch: [1/1]" in caplog.text and "loss" in caplog.text
    said = float(caplog.text.split("mAP: ")[1].split("%")[0])
    (row,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert row["variant"] == "embae_mobilenetv1" and 0 <= row["rank1_nd"] <= 1
    assert 100 * row["mAP"] == pytest.approx(said, abs=0.051)  # torchreid's own


def test_mistakes_are_named(root, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"model\.resume: .*w\.pth is not a torchreid checkpoint"):
        run_stock(config(root, tmp_path, "model.resume", str(tmp_path / "w.pth")))
    with pytest.raises(ValueError, match="model.name 'resnet_50' is unknown; there are .*resnet50"):
        run_stock(config(root, tmp_path, "model.name", "resnet_50"))
    with pytest.raises(ValueError, match="loss.name 'center'.*must be embae, softmax or triplet"):
        run_stock(config(root, tmp_path, "loss.name", "center"))
    with pytest.raises(FileNotFoundError, match="dataset 'market1501': looked for"):
        run_stock(config(tmp_path / "nowhere", tmp_path))
