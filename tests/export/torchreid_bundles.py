"""A torchreid network with statistics of two cameras, as `embae adapt` leaves one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models.bundle import Bundle, InputSpec

IMAGENET = InputSpec(256, 128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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


class TwoCameras:
    """What the files are written from: a network whose statistics differ between cameras."""

    def __init__(self, state: Mapping[str, torch.Tensor], architecture: str = "osnet_x0_25"):
        self.architecture = architecture
        self.shared, self.rows = dict(state), {}
        random = torch.Generator().manual_seed(1)
        for key, mean in state.items():
            if key.endswith("running_mean"):
                spread = state[key.replace("mean", "var")].sqrt()
                # A row each for the unknown camera and for two others, as a model keeps them.
                noise = torch.randn(3, len(mean), generator=random)
                self.rows[key] = mean + 0.1 * spread * noise

    def torchreid_state(self, camera: int) -> State:
        return {**self.shared, **{key: rows[camera + 1] for key, rows in self.rows.items()}}

    def embed(self, images: torch.Tensor, camera: int) -> torch.Tensor:
        """What that camera's file must give, by torch alone: every weight in its place."""
        state = self.torchreid_state(camera)
        classes = len(state["classifier.weight"])
        network = bridge.build_model(self.architecture, num_classes=classes, pretrained=False)
        network.load_state_dict(state)
        with torch.inference_mode():
            return network.eval()(images)


def bundle_of(model: Any, cameras: tuple[str, ...] = ("gate", "hall 2")) -> Bundle:
    return Bundle(model, IMAGENET, cameras)


def suit_deep_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The older surroundings that deep-sort-realtime 1.3.2 needs.

    It looks for torchreid's layout of GitHub, and for pkg_resources, which setuptools has dropped.
    """
    if bridge.LAYOUT == "pypi":
        monkeypatch.setitem(sys.modules, "torchreid.utils", bridge._utils)
    if importlib.util.find_spec("pkg_resources") is None:
        stub = SimpleNamespace(resource_filename=lambda package, name: f"{package}/{name}")
        monkeypatch.setitem(sys.modules, "pkg_resources", stub)
