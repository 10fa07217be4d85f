"""Measures without labels, worked out by hand or against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embae_plugin.evaluation.label_free import measure


def crops(seed: int, count: int = 60, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, dim, generator=draw), torch.randint(0, 3, (count,), generator=draw)


def test_the_effective_rank_counts_directions():
    corners = torch.cat([torch.eye(6), -torch.eye(6)])[:, None].repeat(1, 2, 1)
    camids = torch.zeros(12, dtype=torch.long)
    assert measure(corners, camids, ["effective_rank"])["effective_rank"] == pytest.approx(6)
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(5, 1)[:, None]
    assert measure(line, camids[:10], ["effective_rank"])["effective_rank"] == pytest.approx(1)
    same = torch.ones(4, 1, 3)
    assert measure(same, camids[:4], ["effective_rank"])["effective_rank"] == pytest.approx(
        1, abs=0.1
    )


def test_the_effective_rank_is_that_of_the_singular_values():
    views, camids = crops(1)
    x = F.normalize(F.normalize(views, dim=2).mean(1), dim=1).double().numpy()
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    share = values / values.sum()
    expected = math.exp(-(share * np.log(share)).sum())
    assert measure(views, camids)["effective_rank"] == pytest.approx(expected, rel=1e-5)


def test_mirror_images_that_agree():
    views, camids = crops(2)
    equal = views[:, :1].repeat(1, 2, 1)
    assert measure(equal, camids)["flip_agreement"] == pytest.approx(1)
    apart = measure(views, camids)["flip_agreement"]  # independent views: as far as any two crops
    assert apart == pytest.approx(0, abs=0.15)
    assert math.isnan(measure(views[:, :1], camids)["flip_agreement"])


def test_mutual_neighbours_by_brute_force():
    views, camids = crops(3)
    x = F.normalize(F.normalize(views, dim=2).mean(1), dim=1)
    found = total = 0
    for i in range(len(x)):
        for camera in set(camids.tolist()) - {int(camids[i])}:
            others = [j for j in range(len(x)) if int(camids[j]) == camera]
            there = max(others, key=lambda j: float(x[i] @ x[j]))
            mine = [j for j in range(len(x)) if camids[j] == camids[i]]
            found += max(mine, key=lambda j: float(x[there] @ x[j])) == i
            total += 1
    assert measure(views, camids)["mutual_neighbours"] == pytest.approx(found / total)


def test_cameras_that_mix_score_higher_than_cameras_apart():
    views, camids = crops(4)
    shifted = views + 4 * F.one_hot(camids, 8)[:, None]
    assert measure(views, camids)["camera_mixing"] > measure(shifted, camids)["camera_mixing"]


def test_one_camera_has_nothing_to_mix_or_to_answer():
    views, camids = crops(5)
    found = measure(views, torch.zeros_like(camids))
    assert math.isnan(found["camera_mixing"]) and math.isnan(found["mutual_neighbours"])
    assert math.isfinite(found["effective_rank"])


@pytest.mark.parametrize("shape", [(1, 2, 4), (3, 4), (0, 2, 4)])
def test_what_is_no_set_of_crops(shape):
    with pytest.raises(ValueError, match=r"must be \(N, V, d\), of N crops, two at least"):
        measure(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long))


@pytest.mark.parametrize("count", range(4, 40, 3))
def test_of_equal_crops_the_first_is_answered(count):
    views = torch.randn(1, 1, 65, generator=torch.Generator().manual_seed(0)).repeat(count, 2, 1)
    found = measure(views, torch.arange(count) % 2, ["mutual_neighbours"])["mutual_neighbours"]
    assert found == pytest.approx(2 / count)
