"""Somebody else's Re-ID network in a file, as torchreid's users have it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from embae_plugin import torchreid_bridge as bridge


def random_network(arch: str = "osnet_x0_25", seed: int = 0, classes: int = 7) -> nn.Module:
    """torchreid's network with random weights, and batch norm as training leaves it."""
    torch.manual_seed(seed)
    net = bridge.build_model(arch, classes, pretrained=False, use_gpu=False)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.running_mean.uniform_(-0.1, 0.1, generator=draw)
                layer.running_var.uniform_(0.7, 1.3, generator=draw)
    return net.eval()


def write_zoo_file(path: Path, arch: str = "osnet_x0_25", seed: int = 0) -> Path:
    """A checkpoint as torchreid writes it."""
    net = random_network(arch, seed)
    torch.save({"state_dict": net.state_dict(), "epoch": 60, "rank1": 0.5}, path)
    return path


def real_zoo_file() -> Path:
    """torchreid's published OSNet x0.25 of MSMT17; the test is skipped where it is not."""
    folder = os.environ.get("EMBAE_TEST_WEIGHTS", "")
    path = Path(folder) / "osnet_x0_25_msmt17.pth"
    if not folder or not path.is_file():
        pytest.skip("EMBAE_TEST_WEIGHTS names no folder with osnet_x0_25_msmt17.pth")
    return path
