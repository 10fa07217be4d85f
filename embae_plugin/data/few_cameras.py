"""P x K batches that are each from few cameras, for networks normalised camera by camera.

Of 30 cameras, a batch of 72 crops drawn without regard to them has two or three of each, which is
too few to say what the camera's images look like. Here each batch keeps to so many cameras that
each has about :data:`ROWS` rows, and to clusters that several of these have seen; over a round
every cluster, camera and crop still has its turn.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.data.batches import Labels, identity_batches
from embae_plugin.models.camera_norm import LEAST

ROWS = 8  # of a camera in a batch, about
FEW = 8  # cameras that any batch may hold

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def most_cameras(batch_size: int) -> int:
    """Up to so many cameras are in a batch together, however many rows that leaves each."""
    return max(FEW, batch_size // ROWS)


def camera_batches(
    labels: Labels, cameras: Labels, P: int, K: int, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """A round of P x K batches from P·K / 8 cameras each; of up to 8 cameras, as many as come.

    What each crop is owed grows with every batch by its fair share: clusters are drawn equally
    often, the crops of a cluster too. The camera that is owed most, for its number of crops, comes
    first, then those that have seen most of the same clusters, then the P clusters that are owed
    most by these cameras. A cluster comes with crops of two cameras at least, if it has them.
    Cameras left with fewer than four rows are taken out again, while there are P clusters without
    them.

    Args:
        labels, cameras: (N,) clusters and cameras.
        P, K: clusters in a batch, crops of each: different ones where the batch's cameras have
            that many.

    Returns:
        (steps, P * K) indices, the K crops of a cluster side by side. With up to max(8, P·K / 8)
        cameras those of :func:`identity_batches`.

    Raises:
        ValueError: fewer than P clusters, a number below 1, or shapes that do not agree.
    """
    cluster, camera = (np.unique(x, return_inverse=True)[1].reshape(-1) for x in (labels, cameras))
    if cluster.shape != camera.shape:
        raise ValueError(f"{len(cluster)} crops' clusters, but {len(camera)} crops' cameras")
    few = not len(camera) or camera.max() < most_cameras(P * K)
    if few or min(P, K, steps) < 1 or cluster.max() < P - 1:
        return identity_batches(cluster, np.zeros_like(cluster), P, K, steps, generator)
    cells = _Cells(cluster, camera, generator)
    fair = P * K * cells.count / cells.count.sum(1, keepdims=True) / len(cells.count)
    owed = fair * torch.rand(fair.shape, generator=generator, dtype=torch.float64).numpy()
    plan = _Plan(cells.count, P, K)
    batches = np.empty((steps, P * K), dtype=np.int64)
    for step in range(steps):
        owed += fair
        first = int((owed.sum(0) / fair.sum(0)).argmax())
        chosen, shares = plan.batch(owed, first)
        owed[chosen] -= shares
        batches[step] = cells.take(chosen, shares)
    return torch.from_numpy(batches)


class _Cells:
    """The ``count`` (I, C) crops of each (cluster, camera), shuffled, to be taken in turn."""

    def __init__(self, cluster: Ints, camera: Ints, generator: torch.Generator) -> None:
        shape = int(cluster.max()) + 1, int(camera.max()) + 1
        cell = cluster * shape[1] + camera
        self.count: Ints = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        self.order = np.lexsort((torch.rand(len(cell), generator=generator, dtype=torch.float64),
                                 cell))
        self.first = self.count.cumsum().reshape(shape) - self.count
        self.taken = np.zeros(shape, dtype=np.int64)

    def take(self, clusters: Ints, shares: Ints) -> Ints:
        """The next ``shares`` (P, C) crops of each camera of (P,) clusters, in their order."""
        row, camera = shares.nonzero()
        number = shares[row, camera]
        within = np.arange(number.sum()) - (number.cumsum() - number).repeat(number)
        at = clusters[row].repeat(number), camera.repeat(number)
        place = self.first[at] + (self.taken[at] + within) % self.count[at]
        self.taken[clusters] += shares
        taken: Ints = self.order[place]
        return taken


class _Plan:
    """Which cameras and clusters make a batch, of ``count`` (I, C) crops in each."""

    def __init__(self, count: Ints, P: int, K: int) -> None:
        self.count, self.P, self.K = count, P, K
        self.seen = count > 0
        self.ones = self.seen.astype(np.float64)  # numpy multiplies matrices of integers slowly
        self.cameras_wanted = np.minimum(2, self.seen.sum(1))
        self.rare = np.zeros(count.shape[1], dtype=bool)  # have too few rows even where they lead

    def batch(self, owed: Floats, first: int) -> tuple[Ints, Ints]:
        """(P,) clusters and (P, C) crops of each camera, camera ``first`` before the others."""
        owed = owed.copy()
        owed[:, first] += 1
        due = np.where(self.seen, owed.clip(min=0), 0)
        here = self._cameras(due, first)
        while True:
            value = np.where(self._fit(here), due @ here, -1)
            clusters = (-value).argsort(kind="stable")[: self.P]
            shares = self._shares(clusters, owed[clusters], here)
            rows = shares.sum(0)
            weak = (rows > 0) & (rows < LEAST) & ~self.rare
            if weak[first]:
                self.rare[first], weak[first] = True, False
            here = here & ~weak
            if not weak.any() or self._fit(here).sum() < self.P:
                return clusters, shares

    def _fit(self, here: Flags) -> Flags:
        """Which clusters two of these cameras have seen, or the only one that has."""
        fit: Flags = self.ones @ here >= self.cameras_wanted
        return fit

    def _cameras(self, due: Floats, first: int) -> Flags:
        """So many cameras that P clusters fit, and ROWS crops of each."""
        here, met = np.zeros(due.shape[1], dtype=bool), np.zeros(len(due), dtype=bool)
        near = 1e-6 * due.sum(0)  # where no camera has seen the same clusters, the one owed most
        enough = max(2, self.P * self.K // ROWS)
        camera = first
        while True:
            here[camera] = True
            near += due[self.seen[:, camera] & ~met].sum(0)
            met |= self.seen[:, camera]
            if here.all() or (here.sum() >= enough and self._fit(here).sum() >= self.P):
                return here
            camera = int(np.where(here, -1, near).argmax())

    def _shares(self, clusters: Ints, owed: Floats, here: Flags) -> Ints:
        """(P, C) crops of each camera: those owed most, of two cameras if there are two."""
        count, each = self.count[clusters], np.arange(len(clusters))
        shares = np.zeros(count.shape, dtype=np.int64)
        allowed = (count > 0) & here
        for k in range(self.K):
            again = shares // count.clip(min=1)  # all of its crops are in the batch already
            score = np.where(allowed, owed - shares - 1e6 * again, -np.inf)
            if k == self.K - 1:
                alone = ((shares > 0).sum(1) == 1) & (allowed.sum(1) > 1)
                score[alone[:, None] & (shares > 0)] = -np.inf
            shares[each, score.argmax(1)] += 1
        return shares
