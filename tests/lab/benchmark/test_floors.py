"""The least work that a network can be done in, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from embae_plugin.lab.benchmark.machine import Rates, operations_of
from embae_plugin.lab.benchmark.stages import step_floor
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk


def test_a_convolution_and_a_linear_layer_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False),  # 5 × 8 × 4 outputs of 3 × 9 products
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 7),
    )
    counted = operations_of(lambda: net(torch.zeros(1, 3, 8, 4)))
    assert counted == 2 * (5 * 8 * 4 * 27 + 5 * 7)


@pytest.mark.parametrize("learn", [("f_nui",), ("f_emb", "f_dec")])
def test_a_step_s_floor_is_its_products_and_adam_s_seven_numbers_a_weight(learn) -> None:
    trunk = build_trunk("mobilenetv1_x0_25")
    model = EmbAE(trunk, z_id_dim=8, z_nui_dim=6, hidden_dim=20, num_nuisance=2)
    features = torch.randn(16, 2, trunk.feature_dim)
    groups = torch.arange(16) % 2
    phase = ReconstructionPhase("x", model, features, groups, learn, 1, 1e-3, 1e-4, 8, 0)
    phase.start()
    phase.start_epoch(0)
    learned = sum(p.numel() for name in learn for p in getattr(model, name).parameters())
    assert step_floor(phase, Rates(float("inf"), 0.0, 1.0)) == 7 * 4 * learned
    # A learned layer: forward, its weights' gradient and, behind another, its input's. A fixed one
    # that gradients pass: forward and its input's. Of a fixed input torch takes part of a gradient.
    head, encoders = getattr(model, learn[0]), 2 if learn[0] == "f_nui" else 1
    first, second = (p.numel() for name, p in head.named_parameters()
                     if "fc" in name and "weight" in name)
    decoder = sum(p.numel() for p in model.f_dec.parameters() if p.ndim == 2)
    products = (2 * first + 3 * second) / encoders + (3 if "f_dec" in learn else 2) * decoder
    assert step_floor(phase, Rates(1.0, 0.0, float("inf"))) == pytest.approx(
        8 * 2 * products, rel=0.03
    )
