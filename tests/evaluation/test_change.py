"""What changed, on four crops that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embae_plugin.evaluation.change import camera_neighbours, measure_change


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_four_crops_by_hand():
    """Two cameras; before, neighbours are of the own camera, after, of the other."""
    camids = np.array([0, 0, 1, 1])
    change = measure_change(on_circle(0, 10, 90, 100), 3 * on_circle(0, 90, 10, 100), camids)
    assert change.queries == 4
    assert change.mean_cosine == pytest.approx((1 + 2 * np.cos(np.pi * 80 / 180) + 1) / 4, abs=1e-6)
    # nearest on the other camera: before 2, 2, 1, 1; after 2, 3, 0, 1
    assert change.new_neighbour == pytest.approx(0.5)
    assert (change.same_camera_before, change.same_camera_after) == (1.0, 0.0)
    assert change.same_camera_by_chance == pytest.approx(1 / 3)

    def chord(degrees: float) -> float:
        return 2 * np.sin(np.pi * degrees / 360)

    mean = np.mean([chord(d) for d in (10, 90, 100, 80, 90, 10)])
    other = np.mean([chord(90), chord(80), chord(80), chord(90)])
    assert change.gap_before == pytest.approx((other - chord(10)) / mean, rel=1e-4)
    own = np.mean([chord(90), chord(90), chord(90), chord(90)])
    assert change.gap_after == pytest.approx((chord(10) - own) / mean, rel=1e-4)


def test_the_same_embeddings_have_not_changed():
    z = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    change = measure_change(z, z, np.arange(40) % 3)
    assert change.mean_cosine == pytest.approx(1) and change.new_neighbour == 0
    assert change.same_camera_before == change.same_camera_after
    assert change.gap_before == change.gap_after


def test_a_sample_is_drawn_and_blocks_do_not_matter(monkeypatch):
    z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    camids = np.arange(60) % 4
    whole = measure_change(z, y, camids)._asdict()
    monkeypatch.setattr("embae_plugin.evaluation.change._BLOCK_BYTES", 4 * 60 * 7)
    assert measure_change(z, y, camids)._asdict() == pytest.approx(whole)
    assert measure_change(z, y, camids, most=11).queries == 11


def test_one_camera_and_a_camera_of_one_crop():
    z = on_circle(0, 10, 90)
    alone = measure_change(z, z, np.zeros(3))
    assert alone.new_neighbour is None and alone.gap_before is None and alone.queries == 3
    each = measure_change(z, z, np.arange(3))
    assert each.gap_before is None and each.same_camera_before == 0


def test_other_crops_are_refused():
    with pytest.raises(ValueError, match="must be of the same crops"):
        measure_change(on_circle(0, 1), on_circle(0), np.zeros(2))
    with pytest.raises(ValueError, match="must be of the same crops"):
        measure_change(torch.zeros(0, 2), torch.zeros(0, 2), np.zeros(0))


@pytest.mark.parametrize("count", range(4, 40))
def test_equal_crops_are_equally_near(count):
    """Of equal crops the first is nearest, and one on the own camera is not nearer."""
    draw = torch.Generator().manual_seed(count)
    person, camids = torch.arange(count) % 2, np.arange(count) // 2 % 2
    before, after = (torch.randn(2, 257, generator=draw)[person] for _ in range(2))
    assert measure_change(before, after, camids).new_neighbour == 0
    alone = F.normalize(torch.randn(count, 257, generator=draw), dim=1)
    alone[1:] = alone[1]  # the first crop is as far from all others, on its camera and off it
    found = camera_neighbours(alone, torch.from_numpy(camids), torch.tensor([0]))
    assert found.own == found.other and found.which == 2
