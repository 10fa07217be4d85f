"""A checkpoint knows its model, its input and its cameras, or says what is missing."""

from __future__ import annotations

import os

import pytest
import torch

from embae_plugin.models import bundle as bundles
from embae_plugin.models.bundle import (
    Bundle,
    find_checkpoint,
    load_checkpoint,
    save_bundle,
    save_checkpoint,
)
from embae_plugin.models.door import open_model
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import build_trunk
from tests.crops_world import INPUT, tiny_embae, write_checkpoint
from tests.methods.tiny import same_weights


def test_what_is_saved_comes_back(tmp_path):
    bundle = Bundle(tiny_embae(3, ("gate", "Höf 2")), INPUT, {"source": "x", "images": 3})
    save_bundle(tmp_path / "adapted.pth", bundle)
    for path in (tmp_path, tmp_path / "adapted.pth"):
        back = open_model(path)
        assert same_weights(back.model, bundle.model) and not back.model.training
        assert (back.input, back.camera_names, back.about) == (
            INPUT, ("gate", "Höf 2"), bundle.about,
        )
        assert back.model.camera_names == ("gate", "Höf 2")


def test_a_pooled_model_comes_back_too(tmp_path):
    model = EmbAE.of_trunk(build_trunk("mobilenetv1_x0_25"))
    save_bundle(tmp_path / "a.pth", Bundle(model, INPUT))
    assert same_weights(open_model(tmp_path / "a.pth").model, model)


def test_a_pooled_model_of_an_earlier_release_comes_back(tmp_path):
    """Its description was the trunk's name alone."""
    model = EmbAE.of_trunk(build_trunk("mobilenetv1_x0_25"))
    save_checkpoint(tmp_path / "a.pth", {"spec": {"trunk": model.trunk.name}, "done": True,
                                         "model": model.state_dict(),
                                         "input": INPUT.as_dict()})
    back = open_model(tmp_path / "a.pth").model
    assert back.head == "none" and same_weights(back, model)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"camera_names": ["gate", "yard"]}, ("gate", "yard")),  # of embae adapt
        ({"camera_names": []}, ("0", "1")),
        ({}, ("0", "1")),
        ({"identity": {"target": "market1501"}}, ("market1501:0", "market1501:1")),  # of a stage
    ],
)
def test_earlier_releases_kept_the_names_of_cameras_elsewhere(tmp_path, more, names):
    model = tiny_embae(0, ("a", "b"))
    spec = {key: value for key, value in model.spec().items() if key != "camera_names"}
    save_checkpoint(tmp_path / "a.pth", {"spec": {**spec, "cameras": 2}, "done": True,
                                         "model": model.state_dict(),
                                         "input": INPUT.as_dict(), **more})
    back = open_model(tmp_path / "a.pth")
    assert back.camera_names == names and same_weights(back.model, model)


def test_names_that_are_not_as_many_as_the_cameras_are_refused(tmp_path):
    payload = load_checkpoint(write_checkpoint(tmp_path / "a.pth", cameras=("a", "b")))
    payload["spec"]["camera_names"] = ["a", "b", "c"]
    save_checkpoint(tmp_path / "a.pth", payload)
    with pytest.raises(ValueError, match=r"a\.pth: its weights are not those of its model"):
        open_model(tmp_path / "a.pth")


def test_adapted_goes_before_a_stage_in_one_folder(tmp_path):
    write_checkpoint(tmp_path / "last.pth", seed=1)
    assert find_checkpoint(tmp_path).name == "last.pth"
    write_checkpoint(tmp_path / "adapted.pth", seed=2)
    assert find_checkpoint(tmp_path).name == "adapted.pth"


def test_a_folder_of_stages_wants_one_named(tmp_path):
    for stage in ("embedding", "transfer-cam"):
        write_checkpoint(tmp_path / stage / "last.pth")
    with pytest.raises(ValueError, match=r"several stages.*embedding, .*transfer-cam"):
        open_model(tmp_path)
    open_model(tmp_path / "transfer-cam")


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        open_model(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"neither adapted\.pth"):
        open_model(tmp_path)


def test_an_older_checkpoint_needs_its_size(tmp_path):
    model = tiny_embae()
    save_checkpoint(tmp_path / "last.pth", {"spec": model.spec(), "model": model.state_dict(),
                                            "done": True, "stage": "embedding"})
    with pytest.raises(ValueError, match=r"pass --height and --width"):
        open_model(tmp_path)
    with pytest.raises(ValueError, match=r"pass --height and --width"):
        open_model(tmp_path, height=32)
    bundle = open_model(tmp_path, 32, 16)
    assert bundle.input == InputSpec(32, 16, model.trunk.norm_mean, model.trunk.norm_std)
    assert bundle.about == {"stage": "embedding"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": False}, "not finished"),
        ({"spec": None}, "holds no model"),
        ({"model": {}}, "its weights are not those of its model"),
    ],
)
def test_a_checkpoint_that_cannot_serve(tmp_path, change, message):
    path = write_checkpoint(tmp_path / "a.pth")
    save_checkpoint(path, {**load_checkpoint(path), **change})
    with pytest.raises(ValueError, match=message):
        open_model(path)


def test_another_file(tmp_path):
    torch.save({"state_dict": tiny_embae().state_dict()}, tmp_path / "torchreid.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"torchreid\.pth: .*not the weights of a network"):
        open_model(tmp_path / "torchreid.pth")
    with pytest.raises(ValueError, match=r"text\.pth is"):
        open_model(tmp_path / "text.pth")


def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "adapted.pth", seed=1)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, seed=2)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["adapted.pth"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["trunk.net.bn1.running_var", "f_emb.fc1.weight"])
def test_weights_that_are_no_numbers_are_not_written(tmp_path, name, value):
    path = write_checkpoint(tmp_path / "adapted.pth")
    before, model = path.read_bytes(), tiny_embae()
    model.state_dict()[name].view(-1)[3] = value
    for place in (path, tmp_path / "new" / "adapted.pth"):
        with pytest.raises(ValueError, match=rf"adapted\.pth was not written: .* {name} are NaN"):
            save_bundle(place, Bundle(model, INPUT))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["adapted.pth"]


@pytest.mark.parametrize(
    "values",
    [
        (0, 16, [0.5] * 3, [0.5] * 3),
        (32, 16, [0.5], [0.5] * 3),
        (32, 16, [0.5] * 3, [0.0] * 3),
    ],
)
def test_an_impossible_input(values):
    with pytest.raises(ValueError, match="impossible|3 values each"):
        InputSpec.make(*values)
