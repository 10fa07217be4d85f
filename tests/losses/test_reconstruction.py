from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from embae_plugin.losses import ReconstructionLoss


def test_by_hand():
    feature = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    reconstruction = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert ReconstructionLoss()(reconstruction, feature).item() == 6.5


def test_equals_torch():
    a, b = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ReconstructionLoss()(a, b), F.mse_loss(a, b))


def test_gradient():
    a, b = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda r: ReconstructionLoss()(r, b), a.requires_grad_())


def test_half_precision_is_compared_in_float32():
    a = torch.full((2, 4), 1000.0, dtype=torch.float16)  # its square overflows float16
    loss = ReconstructionLoss()(a, torch.zeros(2, 4))
    assert loss.dtype == torch.float32
    assert loss.item() == 1e6


def test_empty_batch_is_zero():
    assert ReconstructionLoss()(torch.zeros(0, 4), torch.zeros(0, 4)).item() == 0


def test_shapes_must_agree():
    # Broadcasting would hide this mistake.
    with pytest.raises(ValueError, match=r"got \(4, 1\) and \(4, 8\)"):
        ReconstructionLoss()(torch.zeros(4, 1), torch.zeros(4, 8))
