"""A tiny model with its input, in memory and as a checkpoint, and crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import build_trunk

SPEC = InputSpec.make(64, 32, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    generator = torch.Generator().manual_seed(0)
    trunk = build_trunk("mobilenetv1_x0_25", generator=generator)
    model = EmbAE(trunk, z_id_dim=16, z_nui_dim=4, hidden_dim=24, generator=generator)
    model.train()
    model(torch.rand(16, 3, 64, 32, generator=generator))  # running statistics unlike the initial
    return Bundle(model.eval(), SPEC)


@pytest.fixture(scope="session")
def checkpoint(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "adapted.pth"
    save_bundle(path, bundle)
    return path


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for number in range(9):
        camera = folder / ("cam_a" if number % 2 else "cam_b")
        camera.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (80, 40 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(camera / f"{number}.png")
    return folder
