"""What batches of P x K crops are like where there are many cameras: simulated, and measured."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.models.camera_norm import LEAST

Ints = NDArray[np.int64]


def draw_world(
    cameras: int, crops: int, near: bool = False, unequal: float = 0.8, seed: int = 1
) -> tuple[Ints, Ints]:
    """(N,) clusters of 4 to 30 crops by 2 to 5 of ``cameras``, and (N,) cameras, without gaps.

    ``near``: a cluster's cameras are neighbours, on a ring, more often than not. ``unequal``:
    standard deviation of the logarithm of how many people a camera sees.
    """
    random = np.random.default_rng([seed, cameras, crops])
    share = np.exp(unequal * random.standard_normal(cameras))
    labels, camids = list[Ints](), list[Ints]()
    while sum(map(len, labels)) < crops:
        size = int(random.integers(4, 31))
        number = min(int(random.integers(2, 6)), size, cameras)
        weight = share
        if near:
            away = np.abs(np.arange(cameras) - random.choice(cameras, p=share / share.sum()))
            weight = share * np.exp(-np.minimum(away, cameras - away) / 2)
        seen = random.choice(cameras, number, replace=False, p=weight / weight.sum())
        more = random.choice(seen, size - number, p=random.dirichlet(np.ones(number)))
        labels.append(np.full(size, len(labels)))
        camids.append(np.concatenate([seen, more]))
    found = np.unique(np.concatenate(camids), return_inverse=True)[1]
    return np.concatenate(labels), found.astype(np.int64).reshape(-1)


def measure(batches: torch.Tensor, labels: Ints, camids: Ints) -> dict[str, float]:
    """Shares of rows of (S, B) ``batches``, and of the N crops, from 0 to 1.

    ``labels`` and ``camids`` are (N,) clusters, numbered without gaps, and cameras. ``few``: rows
    whose camera has fewer than four in the batch. ``across``: rows that meet their cluster in
    another camera. ``repeated``: rows whose crop is in the batch already. ``never``: crops that no
    batch holds; ``clusters never`` of clusters. ``uneven``: root mean square of how often a crop
    comes less its fair share (its cluster's, as often as any other, divided by its crops), over
    the mean. ``least camera``: rows of the camera that comes least over its fair share.
    ``cameras``: of a batch.
    """
    rows = batches.numpy()
    camera, cluster = camids[rows], labels[rows]
    same_row, same_camera, same_cluster = (
        values[:, :, None] == values[:, None] for values in (rows, camera, cluster)
    )  # (S, B, B)
    draws = np.bincount(rows.ravel(), minlength=len(labels))
    sizes = np.bincount(labels)
    fair = rows.size / len(sizes) / sizes[labels]
    of_camera = np.bincount(camids, weights=draws) / np.bincount(camids, weights=fair)
    found = {
        "few": np.mean(same_camera.sum(2) < LEAST),
        "across": np.mean((same_cluster & ~same_camera).any(2)),
        "repeated": 1 - np.mean(1 / same_row.sum(2)),
        "never": np.mean(draws == 0),
        "clusters never": np.mean(np.bincount(labels, weights=draws) == 0),
        "uneven": np.sqrt(np.mean((draws - fair) ** 2)) / fair.mean(),
        "least camera": of_camera.min(),
        "cameras": np.mean((1 / same_camera.sum(2)).sum(1)),
    }
    return {name: float(value) for name, value in found.items()}
