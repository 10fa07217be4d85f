"""Operations counted here against torch's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from embae_plugin.lab.benchmark.floors import (
    adam_traffic,
    forward_operations,
    reconstruction_operations,
)
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
    ).train()
    assert forward_operations(net, 8, 4) == 2 * (5 * 8 * 4 * 27 + 5 * 7)
    assert net.training


def test_grouped_convolutions_count_as_torch_counts_them() -> None:
    trunk = build_trunk("mobilenetv1_x0_25").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trunk(torch.zeros(1, 3, 64, 32))
    assert forward_operations(trunk, 64, 32) == counter.get_total_flops()


@pytest.mark.parametrize("learn", [("f_nui",), ("f_nui", "f_dec"), ("f_emb", "f_dec")])
def test_a_step_counts_as_torch_counts_it(learn: tuple[str, ...]) -> None:
    trunk = build_trunk("mobilenetv1_x0_25")
    model = EmbAE(trunk, z_id_dim=8, z_nui_dim=6, hidden_dim=20, num_nuisance=2)
    features = torch.randn(16, 2, trunk.feature_dim)
    groups = torch.arange(16) % 2
    phase = ReconstructionPhase("x", model, features, groups, learn, 1, 1e-3, 1e-4, 8, 0)
    phase.start()
    phase.start_epoch(0)
    with FlopCounterMode(display=False) as counter:
        phase.step(0, 0)
    # the decoder's gradient for what is fixed is left out, of which torch computes a part
    assert 8 * reconstruction_operations(model, learn) == pytest.approx(
        counter.get_total_flops(), rel=0.03
    )


def test_adam_reads_four_numbers_and_writes_three_for_each_weight(tmp_path: Path) -> None:
    model = nn.ModuleDict({"f_dec": nn.Linear(9, 1), "f_emb": nn.Linear(99, 1)})
    holder = nn.Module()
    holder.f_dec, holder.f_emb = model["f_dec"], model["f_emb"]
    assert adam_traffic(holder, ("f_dec",)) == 10 * 7 * 4
    assert adam_traffic(holder, ("f_dec", "f_emb")) == 110 * 7 * 4
