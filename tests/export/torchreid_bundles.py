"""A torchreid network with statistics of two cameras, as `embae adapt` leaves one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.camera_norm import CameraNorm
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from tests.crops_world import tell_apart

IMAGENET = InputSpec(256, 128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ("gate", "hall 2")
State = dict[str, torch.Tensor]


@cache
def random_network(name: str = "osnet_x0_25") -> nn.Module:
    """A zoo network with random weights, and statistics that fit noise; not to be changed."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = bridge.build_model(name, num_classes=5, pretrained=False)
        for layer in network.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.momentum = 0.7
        for _ in range(3):
            network(torch.randn(8, 3, 128, 64))
    return network.eval()


def with_cameras(
    state: Mapping[str, torch.Tensor], names: Sequence[str] = NAMES, arch: str = "osnet_x0_25"
) -> EmbAE:
    """torchreid's network with these weights, and statistics that differ between cameras."""
    model = EmbAE.of_network(f"torchreid:{arch}")
    for part in (model.trunk.net, model.f_emb):
        part.load_state_dict({key: state[key] for key in part.state_dict()})
    model.learn_cameras("trunk", names)
    tell_apart(model)
    return model.eval()


def state_of(model: EmbAE, state: Mapping[str, torch.Tensor], camera: int) -> State:
    """What that camera's file must hold: the network's weights, and that camera's statistics."""
    rows = {}
    for part in (model.trunk.net, model.f_emb):
        for name, layer in part.named_modules():
            if isinstance(layer, CameraNorm):
                rows[f"{name}.running_mean"] = layer.running_mean[camera]
                rows[f"{name}.running_var"] = layer.running_var[camera]
    assert {key for key in state if ".running_" in key} == set(rows)
    return {**state, **rows}


def by_torchreid(state: State, images: torch.Tensor, arch: str = "osnet_x0_25") -> torch.Tensor:
    """torchreid's own network with every weight in its place."""
    classes = len(state["classifier.weight"])
    network = bridge.build_model(arch, num_classes=classes, pretrained=False)
    network.load_state_dict(state)
    with torch.inference_mode():
        return network.eval()(images)


def bundle_of(model: EmbAE) -> Bundle:
    return Bundle(model, IMAGENET)


def suit_deep_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The older surroundings that deep-sort-realtime 1.3.2 needs.

    It looks for torchreid's layout of GitHub, and for pkg_resources, which setuptools has dropped.
    """
    if bridge.LAYOUT == "pypi":
        monkeypatch.setitem(sys.modules, "torchreid.utils", bridge.library.utils)
    if importlib.util.find_spec("pkg_resources") is None:
        stub = SimpleNamespace(resource_filename=lambda package, name: f"{package}/{name}")
        monkeypatch.setitem(sys.modules, "pkg_resources", stub)
