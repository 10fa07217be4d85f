"""Checkpoints of every wrong kind: refused in words, nothing run, no model changed."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin.models.bundle import Bundle, load_checkpoint, save_bundle
from embae_plugin.models.door import open_model
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.training.run_identity import load_weights
from tests.crops_world import tiny_embae, write_checkpoint
from tests.odd_input.world import KINDS, snapshot, wrong_file


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("good") / "adapted.pth")


@pytest.fixture(scope="module")
def model():
    return tiny_embae(1)


def refused_by_both(model, path, match: str | None = None) -> None:
    """Neither reader takes the file, and the model is as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, OSError), match=match):
        load_weights(model, path)
    with pytest.raises((ValueError, OSError), match=match):
        open_model(path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_none(model, tmp_path, kind):
    refused_by_both(model, wrong_file(tmp_path, kind))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(share=st.floats(0, 0.99), junk=st.binary(max_size=64))
def test_files_cut_short(good, model, tmp_path_factory, share, junk):
    path = tmp_path_factory.mktemp("cut") / "x.pth"
    content = good.read_bytes()
    path.write_bytes(content[: int(share * len(content))] + junk)
    refused_by_both(model, path)


class Bomb:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda what, path: path.write_bytes(
    pickle.dumps(what))], ids=["torch", "pickle"])
def test_code_in_a_file_does_not_run(model, tmp_path, write):
    write({"format": "embae-checkpoint", "model": Bomb(tmp_path / "ran")}, tmp_path / "x.pth")
    refused_by_both(model, tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


WEIGHT = "f_emb.fc1.weight"
WRONG_WEIGHTS = {
    "text": lambda w: "abc",
    "none": lambda w: None,
    "list": lambda w: [1],
    "sparse": lambda w: w.to_sparse(),
    "meta": lambda w: w.to("meta"),
    "whole numbers": lambda w: w.long(),
    "complex": lambda w: w.to(torch.complex64),
    "eight bits": lambda w: w.to(torch.float8_e4m3fn),
    "transposed": lambda w: w.T,
    "empty": lambda w: w[:0],
    "nan": lambda w: w * float("nan"),
    "infinite": lambda w: w / 0,
}


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_weights_that_are_none(good, model, tmp_path, kind):
    payload = load_checkpoint(good)
    payload["model"][WEIGHT] = WRONG_WEIGHTS[kind](payload["model"][WEIGHT])
    torch.save(payload, tmp_path / "x.pth")
    refused_by_both(model, tmp_path / "x.pth", WEIGHT)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_precisions_are_taken(good, tmp_path, kind):
    payload = load_checkpoint(good)
    wanted = payload["model"][WEIGHT].to(kind)
    payload["model"][WEIGHT] = wanted
    torch.save(payload, tmp_path / "x.pth")
    model = tiny_embae(1)
    load_weights(model, tmp_path / "x.pth")
    for own in (model, open_model(tmp_path / "x.pth").model):
        assert torch.equal(own.state_dict()[WEIGHT], wanted.float())


@pytest.mark.parametrize("more", [{3: torch.ones(1)}, {(1, 2): torch.ones(1)}, {"": "x"},
                                  {"more.weight": torch.ones(1)}], ids=str)
def test_names_that_do_not_belong(good, model, tmp_path, more):
    payload = load_checkpoint(good)
    payload["model"].update(more)
    torch.save(payload, tmp_path / "x.pth")
    refused_by_both(model, tmp_path / "x.pth", "model")


def test_a_weight_under_two_names_is_not_guessed(good, model, tmp_path):
    state = load_checkpoint(good)["model"]
    torch.save({**state, f"module.{WEIGHT}": state[WEIGHT] * 0}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="twice"):
        load_weights(model, tmp_path / "x.pth")


@pytest.mark.parametrize("payload", [None, 4, "text", [1, 2], torch.ones(3), {}, {"model": 1},
                                     {"state_dict": "text"},
                                     {"model": {}, "spec": {}}])
def test_other_things_in_a_file(model, tmp_path, payload):
    torch.save(payload, tmp_path / "x.pth")
    refused_by_both(model, tmp_path / "x.pth", r"x\.pth")


SIZES = ("num_classes", "z_id_dim", "z_nui_dim", "hidden_dim", "num_nuisance")
ODD_FIELDS = [
    *[("spec", {size: value}) for size in SIZES for value in (None, "8", -1, 1.5, 2**70)],
    ("spec", {"hidden_dim": 2**40}), ("spec", {"trunk": "nothing"}), ("spec", {"trunk": None}),
    ("spec", {"order": []}), ("spec", {"loss": 3}), ("spec", {"more": 1}), ("spec", {"output": 3}),
    ("spec", {"camera_parts": "heads", "cameras": "2"}),
    ("spec", {"camera_parts": "heads", "cameras": -1}), ("spec", {"camera_parts": "x"}),
    *[("spec", {"camera_parts": "heads", "camera_names": names})
      for names in (None, 3, "abc", [1], ["a", "a"], [], ["a", None], {"a": 0})],
    ("spec", {"head": "own"}), ("spec", {"head": "none"}), ("spec", {"head": None}),
    ("input", {"height": "a"}), ("input", {"height": -3}), ("input", {"height": 32.5}),
    ("input", {"height": 10**9}), ("input", {"width": [1]}), ("input", {"width": torch.ones(2)}),
    ("input", {"norm_mean": None}), ("input", {"norm_mean": [0.0]}),
    ("input", {"norm_std": [float("nan")] * 3}), ("input", {"norm_mean": [float("inf")] * 3}),
]


@pytest.mark.parametrize(("part", "change"), ODD_FIELDS, ids=str)
def test_descriptions_that_are_impossible(good, tmp_path, part, change):
    payload = load_checkpoint(good)
    torch.save({**payload, part: {**payload[part], **change}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth"):
        open_model(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "names", [3, "abc", [1], ["a", "a"], ["a"], {"a": 0}, ["a", None]], ids=str
)
def test_names_of_cameras_where_earlier_releases_kept_them(tmp_path, names):
    """Beside the description, which counted cameras only."""
    payload = load_checkpoint(write_checkpoint(tmp_path / "x.pth", cameras=("a", "b")))
    del payload["spec"]["camera_names"]
    payload["spec"]["cameras"] = 2
    torch.save({**payload, "camera_names": ["c", "d"]}, tmp_path / "x.pth")
    assert open_model(tmp_path / "x.pth").camera_names == ("c", "d")
    torch.save({**payload, "camera_names": names}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth"):
        open_model(tmp_path / "x.pth")


@pytest.mark.parametrize("change", [
    {"version": "1"}, {"version": torch.ones(2)}, {"format": None},
    {"done": "no"}, {"done": torch.ones(2)}, {"done": False}, {"input": None}, {"input": {}},
], ids=str)
def test_entries_that_are_impossible(good, tmp_path, change):
    torch.save({**load_checkpoint(good), **change}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth"):
        open_model(tmp_path / "x.pth")


@pytest.mark.parametrize("about", [None, 3, "text", [1], {}])
def test_a_bundle_of_unknown_origin_is_read(good, tmp_path, about):
    torch.save({**load_checkpoint(good), "about": about}, tmp_path / "x.pth")
    assert open_model(tmp_path / "x.pth").about == {"stage": "adapted"}


@pytest.mark.parametrize("part", ["nothing", "", "f_emb.fc1"])
def test_parts_that_the_model_lacks(good, model, part):
    with pytest.raises(ValueError, match="in this model"):
        load_weights(model, good, [part])


@pytest.mark.parametrize("kind", ["folder", "below a file", "nul"])
def test_bundles_are_not_saved_over_something_else(good, tmp_path, kind):
    path = wrong_file(tmp_path, kind)
    before = snapshot(tmp_path)
    with pytest.raises((ValueError, OSError)):
        save_bundle(path, open_model(good))
    assert snapshot(tmp_path) == before


def test_a_bundle_in_a_folder_of_any_name_comes_back(model, tmp_path):
    path = tmp_path / "日本 ä" / "a b.pth"
    spec = InputSpec(32, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model = copy.deepcopy(model)
    model.learn_cameras("heads", ["ö 1", ""])
    save_bundle(path, Bundle(model, spec))
    read = open_model(path)
    assert read.input == spec and read.camera_names == ("ö 1", "")
    assert all(torch.equal(value, read.model.state_dict()[key])
               for key, value in model.state_dict().items())
