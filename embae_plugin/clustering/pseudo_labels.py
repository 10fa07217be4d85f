"""Pseudo-labels: clusters of crops that probably show one person (Song et al., 2020; SpCL)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from embae_plugin import distributed
from embae_plugin.clustering.jaccard import jaccard_distances, neighbours
from embae_plugin.progress import Progress

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PseudoLabels:
    """Clusters of N crops.

    Attributes:
        labels: (N,) cluster of each crop, 0 to C − 1, −1 for those left out.
    """

    labels: Ints

    @property
    def clusters(self) -> int:
        """C."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def kept(self) -> Ints:
        """Crops that are in a cluster."""
        return np.flatnonzero(self.labels >= 0)

    def doubts(self, least_kept: float, largest: float) -> str:
        """Why the clusters cannot be taken for people; "" where they can. Reads no label.

        People who appear once or twice leave few crops in clusters, or clusters of many people
        who look alike.

        Args:
            least_kept: share of the crops that must be in clusters.
            largest: share of all crops in one cluster beyond which it is more than a person's.
        """
        kept, total = len(self.kept), len(self.labels)
        if self.clusters < 2 or kept < least_kept * total:
            return f"{kept} of {total} crops lie in clusters, of which there are {self.clusters}"
        most = int(np.bincount(self.labels[self.kept]).max())
        if most > largest * total:
            return (
                f"one cluster holds {most} of {total} crops, which is more than one person's "
                "(if so few people are there, raise embae.adapt.largest_cluster)"
            )
        return ""

    def cameras_per_cluster(self, camids: Ints) -> float:
        """How many cameras a cluster spans on average; NaN without clusters."""
        pairs = np.unique(np.stack([self.labels, camids])[:, self.kept], axis=1)
        return pairs.shape[1] / self.clusters if self.clusters else float("nan")


def without_camera_means(embeddings: torch.Tensor, camids: Ints) -> torch.Tensor:
    """(N, D) embeddings less the mean of their camera's, then of length 1.

    What all crops of a camera have in common is the camera's, not the person's.
    """
    cameras = torch.from_numpy(np.unique(camids, return_inverse=True)[1].reshape(-1))
    cameras = cameras.to(embeddings.device)
    count = torch.bincount(cameras).to(embeddings.dtype)
    sums = embeddings.new_zeros(len(count), embeddings.shape[1]).index_add_(0, cameras, embeddings)
    less = (sums / count[:, None])[cameras].neg_().add_(embeddings)  # in place: N·D may be large
    return less.div_(less.norm(dim=1, keepdim=True).clamp_(min=1e-12))


def check_settings(eps: float, min_samples: int, k1: int, k2: int) -> None:
    """ValueError for settings that :func:`pseudo_labels` cannot work with."""
    if not 0 < eps < 1 or min(min_samples, k1, k2) < 1:
        raise ValueError(
            f"eps {eps} must lie between 0 and 1, and min_samples {min_samples}, k1 {k1} and k2 "
            f"{k2} be at least 1"
        )


def dbscan(distances: csr_matrix, eps: float, min_samples: int) -> Ints:
    """(N,) clusters of (N, N) sparse distances, of which those up to ``eps`` must be stored."""
    from sklearn.cluster import DBSCAN

    found = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances)
    labels: Ints = found.astype(np.int64)
    return labels


def pseudo_labels(
    embeddings: torch.Tensor, camids: Ints,
    eps: float = 0.5, min_samples: int = 4, k1: int = 30, k2: int = 6, search: str = "exact",
) -> PseudoLabels:
    """DBSCAN on k-reciprocal Jaccard distances of embeddings less their camera's mean.

    Several processes share out the search for neighbours; rank 0 does the rest for all.

    Args:
        embeddings: (N, D).
        camids: (N,).
        eps: Jaccard distance up to which crops are neighbours, below 1.
        min_samples: neighbours, itself included, that make a crop the core of a cluster.
        k1, k2, search: see :func:`jaccard_distances`.

    Raises:
        ValueError: fewer than two crops, or settings out of range.
    """
    check_settings(eps, min_samples, k1, k2)
    if len(embeddings) != len(camids):
        raise ValueError(f"{len(embeddings)} embeddings, but {len(camids)} camera numbers")
    x = without_camera_means(embeddings.float(), camids)
    with Progress("clustering", delay=2.0):  # of whose parts the longest count for themselves
        index = neighbours(x, k1, k2, search)

        def found() -> Ints:
            distances = jaccard_distances(x, k1, k2, largest=eps + 1e-6, index=index)
            return dbscan(distances, eps, min_samples)

        return PseudoLabels(distributed.from_rank_zero(found))
