"""Weights tell their architecture by names and shapes; a file's name only decides ties."""

from __future__ import annotations

import time
from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models import recognition, weight_files
from embae_plugin.models.recognition import recognise
from embae_plugin.models.weight_files import read_state

PEOPLE = 7


def built(arch: str, device: str = "meta", loss: str = "triplet") -> nn.Module:
    """torchreid's model, built as its own script builds it."""
    with torch.device(device), bridge.quiet():
        return bridge.build_model(arch, PEOPLE, loss=loss, pretrained=False, use_gpu=False)


@pytest.fixture(autouse=True)
def files_of_one_number(monkeypatch):
    """Lets the files here say that they hold more than they do, so that they are small."""
    monkeypatch.setattr(weight_files, "_check_tensors", lambda path, content: None)


@cache
def _meta_state(arch: str) -> dict[str, torch.Tensor]:
    return dict(built(arch).state_dict())


def state_of(arch: str) -> dict[str, torch.Tensor]:
    """A state dict of the right names and shapes, whose file is small."""
    state = _meta_state(arch)
    return {key: torch.zeros((), dtype=one.dtype).expand(one.shape) for key, one in state.items()}


WRAPPED = [
    lambda state: state,
    lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    lambda state: {"model": {k: v for k, v in state.items() if not k.startswith("classifier")}},
]


def test_there_are_all_of_torchreids_models_and_no_others():
    assert {"osnet_x1_0", "osnet_ain_x0_25", "resnet152", "resnet50_ibn_b", "se_resnext101_32x4d",
            "densenet121_fc512", "nasnsetmobile", "mudeep", "hacnn", "pcb_p6", "mlfn",
            "shufflenet_v2_x2_0", "squeezenet1_0_fc512"} < set(bridge.own_models())
    assert len(bridge.own_models()) >= 46
    assert not any(name.startswith("embae") for name in bridge.own_models())


@pytest.mark.parametrize("arch", bridge.own_models())
def test_every_model_of_torchreids_is_recognised_from_its_file(arch, tmp_path):
    state = state_of(arch)
    wrap = WRAPPED[len(arch) % 2]
    torch.save(wrap(state), tmp_path / "model.pth.tar-60",
               _use_new_zipfile_serialization=len(arch) % 4 < 2)
    assert recognise(read_state(tmp_path / "model.pth.tar-60")) == arch


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("arch", ["osnet_x0_25", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_what_is_read_loads_into_what_is_recognised(arch, wrap, tmp_path):
    source = built(arch, "cpu")
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    target = built(recognise(state), "cpu")
    result = target.load_state_dict(state, strict=False)
    assert all(key.startswith("classifier") for key in result.missing_keys)
    assert result.unexpected_keys == []
    assert all(torch.equal(target.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("arch", bridge.own_models())
def test_what_the_number_of_people_changes_is_the_classifier(arch):
    more = recognition._shapes(arch)
    changed = {k for k, v in state_of(arch).items() if k in more and v.shape != more[k]}
    assert changed and not changed & set(recognition._body(arch))


def test_published_files_are_recognised(imagenet_weights):
    for name, arch in (("osnet_x0_25_msmt17.pth", "osnet_x0_25"),
                       ("mobilenetv2_x1_0_imagenet_torchreid_keys.pth", "mobilenetv2_x1_0")):
        state = read_state(imagenet_weights / name)
        assert recognise(state) == recognise(state, arch) == arch
        assert recognise(state, file_name="resnet50.pth") == arch


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "densenet121", "squeezenet1_1"])
def test_imagenet_files_of_torchvision_are_recognised_with_their_own_classifier(arch):
    with torch.device("meta"):
        state = torchvision.models.get_model(arch).state_dict()
    assert recognise(state) == arch


# --- the file's name --------------------------------------------------------------------------


def test_a_file_name_does_not_outweigh_the_weights():
    state = state_of("osnet_x0_5")
    assert recognise(state, file_name="osnet_x1_0_msmt17.pth") == "osnet_x0_5"
    assert recognise(state_of("pcb_p6"), file_name="pcb_p4.pth") == "pcb_p6"


def test_a_file_name_decides_between_architectures_that_only_differ_in_their_classifier():
    state = {k: v for k, v in state_of("pcb_p6").items() if not k.startswith("classifier")}
    assert recognise(state, file_name="log/pcb_p4_market.pth") == "pcb_p4"
    assert recognise(state, file_name="log/pcb_p6/model.pth.tar-60") == "pcb_p6"
    assert recognise(state, "pcb_p4") == "pcb_p4"
    with pytest.raises(ValueError, match=r"^a\.pth: .* fit pcb_p4 and pcb_p6 alike: name the arch"):
        recognise(state, file_name="a.pth")


def test_the_longest_name_in_a_file_name_is_meant():
    assert recognition._hinted("log/resnet50/resnet50_fc512_msmt.pth.tar") == "resnet50_fc512"
    assert recognition._hinted("log/osnet_x1_0/model.pth.tar-9") == "osnet_x1_0"
    assert recognition._hinted("model.pth") == ""


# --- an architecture that is given --------------------------------------------------------------


def test_a_given_architecture_is_checked():
    state = state_of("osnet_x0_25")
    assert recognise(state, "osnet_x0_25") == "osnet_x0_25"
    with pytest.raises(ValueError) as caught:
        recognise(state, "osnet_x0_5", "f/w.pth")
    assert str(caught.value).startswith(
        "f/w.pth: these weights are not those of osnet_x0_5: 480 of another shape "
        "(conv1.conv.weight (16, 3, 7, 7) instead of (32, 3, 7, 7), "
    )
    with pytest.raises(ValueError, match=r"of resnet50: 265 missing \(conv1\.weight.*unexpected"):
        recognise(state, "resnet50")
    with pytest.raises(ValueError, match="no model 'osnet_x25'. Did you mean .*osnet_x0_25"):
        recognise(state, "osnet_x25")


# --- what is none -----------------------------------------------------------------------------


def test_a_network_with_a_weight_too_few_and_one_too_many_is_described():
    state = state_of("osnet_x0_25")
    del state["fc.0.weight"]
    state["extra"] = torch.zeros(3)
    with pytest.raises(ValueError) as caught:
        recognise(state, file_name="w.pth")
    said = str(caught.value)
    assert said.startswith("w.pth: 485 tensors (conv1.conv.weight (16, 3, 7, 7), ")
    assert "Nearest: osnet_x0_25 (484 of 485 fit), osnet_ain_x0_25 (" in said
    assert said.endswith("for osnet_x0_25, 1 missing (fc.0.weight); 1 unexpected (extra)")


DETECTOR = {f"model.{i}.conv.weight": torch.zeros(16, 3, 3, 3) for i in range(9)}
NONE = {
    "classifier": ({"classifier.weight": torch.zeros(5, 9), "classifier.bias": torch.zeros(5)},
                   "a classifier alone (classifier.weight, classifier.bias)"),
    "nothing": ({}, "a classifier alone (nothing)"),
    "detector": (DETECTOR, "9 tensors (model.0.conv.weight (16, 3, 3, 3), model.1.conv.weight"),
    "one tensor": ({"w": torch.zeros(2)}, "1 tensors (w (2,)) that are not the weights"),
}


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_network_of_torchreids_is_told_in_one_line(kind):
    state, message = NONE[kind]
    with pytest.raises(ValueError) as caught:
        recognise(state, file_name="w.pth")
    assert str(caught.value).startswith(f"w.pth: {message}") and "\n" not in str(caught.value)
    if kind == "detector":
        assert "Is it a detector" in str(caught.value)


# --- cost and side effects --------------------------------------------------------------------


def test_the_first_recognition_takes_seconds_and_draws_no_random_numbers():
    recognition._shapes.cache_clear()
    recognition._body.cache_clear()
    state, before, start = state_of("osnet_x0_75"), torch.get_rng_state(), time.process_time()
    assert recognise(state) == "osnet_x0_75"
    assert time.process_time() - start < 8  # 1.8 on the machine where it was written
    assert torch.equal(torch.get_rng_state(), before)
    start = time.process_time()
    assert recognise(state) == "osnet_x0_75"
    assert time.process_time() - start < 0.2
