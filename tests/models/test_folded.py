from __future__ import annotations

import pytest
import torch
from embae_plugin.models.activated_conv import ActivatedConv
from embae_plugin.models.folded import FEW, WORTH_IT, FoldedTrunk

from embae_plugin.models import folded as module
from embae_plugin.models.camera_norm import at_cameras, camera_layers, use_cameras
from embae_plugin.models.trunks import Trunk, build_trunk
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture
def trunk() -> Trunk:
    return build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0)).eval()


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(seed))


def with_cameras(trunk: Trunk) -> Trunk:
    use_cameras(trunk, 3)
    for layer in camera_layers(trunk):
        layer.running_mean += 0.1 * torch.arange(4.0)[:, None]
    return trunk


def counted(monkeypatch) -> list[Trunk]:
    """The trunks that were folded."""
    made: list[Trunk] = []
    fold = module.fuse_for_inference
    monkeypatch.setattr(module, "fuse_for_inference", lambda t: made.append(t) or fold(t))
    return made


def test_it_folds_once_when_enough_images_have_come(trunk, monkeypatch):
    made = counted(monkeypatch)
    ours, x = FoldedTrunk(), images(WORTH_IT // 2)
    with torch.inference_mode():
        expected = trunk(x)
        for number in (0, 1, 1, 1):
            got = ours.features(trunk, x)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
            assert len(made) == number
    folded = ours._copies[-1]
    assert any(isinstance(m, ActivatedConv) for m in folded.modules())


def test_each_camera_has_its_own_and_unknown_ones_the_common(trunk):
    with_cameras(trunk)
    cameras = torch.tensor([2, 0, -1, 0] * (2 * WORTH_IT))
    x, ours = images(len(cameras)), FoldedTrunk()
    with torch.inference_mode():
        with at_cameras(trunk, cameras):
            expected = trunk(x)
        got = ours.features(trunk, x, cameras)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert sorted(ours._copies) == [-1, 0, 2]


def test_one_camera_for_a_whole_batch(trunk):
    with_cameras(trunk)
    x, ours = images(WORTH_IT), FoldedTrunk()
    with torch.inference_mode():
        one = ours.features(trunk, x, torch.tensor([1]))
        each = ours.features(trunk, x, torch.ones(len(x), dtype=torch.long))
    torch.testing.assert_close(one, each)


def test_a_few_images_of_many_cameras_go_together(trunk, monkeypatch):
    with_cameras(trunk)
    seen = []
    trunk.register_forward_hook(lambda *_: seen.append(1))
    cameras = torch.tensor([0, 1, 2, -1] * (FEW - 1))
    with torch.inference_mode():
        FoldedTrunk().features(trunk, images(len(cameras)), cameras)
    assert len(seen) == 1


def test_changed_weights_or_another_trunk_are_folded_anew(trunk, monkeypatch):
    made = counted(monkeypatch)
    ours, x = FoldedTrunk(), images(WORTH_IT)
    other = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(5)).eval()
    with torch.inference_mode():
        ours.features(trunk, x)
    with torch.no_grad():
        next(trunk.parameters()).mul_(2)
    for changed in (trunk, other):
        with torch.inference_mode():
            got, expected = ours.features(changed, x), changed(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(made) == 3 and len(ours._copies) == 1


def test_only_so_many_copies_are_kept(trunk, monkeypatch):
    with_cameras(trunk)
    made = counted(monkeypatch)
    ours, x = FoldedTrunk(most=2), images(WORTH_IT)
    with torch.inference_mode():
        for camera in (0, 1, 0, 2, 0):
            ours.features(trunk, x, torch.tensor([camera]))
    assert sorted(ours._copies) == [0, 2] and len(made) == 3  # 1 was used longest ago


def test_a_trunk_made_in_inference_mode_works():
    with torch.inference_mode():
        trunk = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0)).eval()
        x = images(WORTH_IT)
        got = FoldedTrunk().features(trunk, x)
        torch.testing.assert_close(got, trunk(x), rtol=1e-4, atol=1e-5)
