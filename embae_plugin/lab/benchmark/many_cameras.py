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
    few, across, cameras = [], [], []
    for batch in rows:
        camera, cluster = camids[batch], labels[batch]
        counts = np.bincount(camera)
        few.append(np.mean(counts[camera] < LEAST))
        elsewhere = (cluster[:, None] == cluster) & (camera[:, None] != camera)
        across.append(np.mean(elsewhere.any(1)))
        cameras.append(np.sum(counts > 0))
    draws = np.bincount(rows.ravel(), minlength=len(labels))
    sizes = np.bincount(labels)
    fair = rows.size / len(sizes) / sizes[labels]
    of_camera = np.bincount(camids, weights=draws) / np.bincount(camids, weights=fair)
    repeated = 1 - np.mean([len(np.unique(batch)) for batch in rows]) / rows.shape[1]
    return {
        "few": float(np.mean(few)),
        "across": float(np.mean(across)),
        "repeated": float(repeated),
        "never": float(np.mean(draws == 0)),
        "clusters never": float(np.mean(np.bincount(labels, weights=draws) == 0)),
        "uneven": float(np.sqrt(np.mean((draws - fair) ** 2)) / fair.mean()),
        "least camera": float(of_camera.min()),
        "cameras": float(np.mean(cameras)),
    }
