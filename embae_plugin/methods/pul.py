"""PUL: clustering and fine-tuning in turns (Fan, Zheng, Yan and Yang, 2018), the paper's [5].

A round clusters the target's embeddings, takes the images close to the heart of their cluster for
people it has recognised, and fine-tunes the network to tell those clusters apart; with better
embeddings, the next round keeps more. Written from the article's description.

An example, too, of how a method is added: say its phases here, register the engine, give it a
node of the configuration and a test. Resuming, logging and scoring come from the base.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embae_plugin.clustering.pseudo_labels import require_scikit_learn
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.methods.softmax import ImageIdentificationEngine, SoftmaxPhase
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import seeded

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Reliable(NamedTuple):
    """The images that a round learns from.

    Attributes:
        seeds: (C,) the image nearest the centre of each cluster that has images.
        kept: (N,) bool.
    """

    seeds: Ints
    kept: NDArray[np.bool_]


def kmeans(features: Floats, clusters: int, generator: torch.Generator) -> tuple[Floats, Ints]:
    """Scikit-learn's K-means (k-means++, one start): centres (K, D) and labels (N,)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    means = KMeans(clusters, n_init=1, random_state=generator.initial_seed() % 2**32)
    # With more threads, partial sums are added up in the order in which the threads finish.
    with threadpool_limits(1):
        labels = means.fit_predict(features)
    return means.cluster_centers_, labels.astype(np.int64)


def reliable_images(
    features: Floats,
    centres: Floats,
    labels: Ints,
    threshold: float = 0.85,
    near_any_seed: bool = False,
) -> Reliable:
    """Keeps the images whose cosine similarity to a seed exceeds ``threshold``.

    The seed of a cluster is that one of its images which is nearest its centre (the first of
    equals), so every cluster keeps at least its seed.

    Args:
        features: (N, D) embeddings, of any length; one of length 0 is similar to nothing.
        centres: (K, D).
        labels: (N,) cluster of each image.
        threshold: of the cosine similarity.
        near_any_seed: a seed of any cluster will do, as in the authors' script; by default, and
            in the article's words, it must be the seed of the image's own cluster.
    """
    distance = np.linalg.norm(features - centres[labels], axis=1)
    order = np.lexsort((distance, labels))
    _, first, cluster = np.unique(labels[order], return_index=True, return_inverse=True)
    seeds = order[first]
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    if near_any_seed:
        similarity = (unit @ unit[seeds].T).max(axis=1)
    else:
        own_seed = np.empty_like(order)
        own_seed[order] = seeds[cluster.reshape(-1)]
        similarity = (unit * unit[own_seed]).sum(axis=1)
    return Reliable(seeds, similarity > threshold)


def purity(labels: Ints, pids: Ints) -> float:
    """Share of the images that are of the person commonest in their cluster; NaN without images."""
    pairs, counts = np.unique(np.stack([labels, pids]), axis=1, return_counts=True)
    _, first = np.unique(pairs[0], return_index=True)
    return float(np.maximum.reduceat(counts, first).sum() / len(labels)) if len(labels) else np.nan


class ImagePULEngine(ImageIdentificationEngine):
    """PUL as an engine; ``max_epoch`` of :meth:`run` are the epochs of a round (20 in the article).

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: what to adapt: an EmbAE model from stage 1, whose z_id is clustered, or the
            article's own base, one of :meth:`EmbAE.of_trunk` trained by
            :class:`ImageIdentificationEngine`.
        rounds: of clustering and fine-tuning.
        clusters: K, the number of people expected (750 for Market-1501).
        threshold: of the cosine similarity to a seed, see :func:`reliable_images`.
        near_any_seed: the authors' script's reading, see :func:`reliable_images`.
        restart: fine-tune from the initial weights in every round, as the authors' script does;
            by default a round goes on from the one before.
        monitor_pids: (N,) true identities of the target's images, to log how pure the kept
            clusters are. Only that number is made of them; nothing is learned from it.
        **learning: lr, momentum, batch_size, dropout, transforms, heads_only, precision, use_gpu,
            seed, store: see :class:`ImageIdentificationEngine`.

    Raises:
        ValueError: no target images, fewer than clusters, or another setting that cannot work.
        ImportError: scikit-learn is not installed.
    """

    stage = "pul"
    scored_phases = ("round",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        *,
        rounds: int = 25,
        clusters: int = 750,
        threshold: float = 0.85,
        near_any_seed: bool = False,
        restart: bool = False,
        monitor_pids: Sequence[int] | Ints | None = None,
        **learning: Any,
    ) -> None:
        require_scikit_learn("PUL clusters")
        super().__init__(datamanager, model, **learning)
        target = self.data.target_train
        if target is None or not len(target):
            raise ValueError("there are no target images: name a target that is not a source")
        if not 2 <= clusters <= len(target):
            raise ValueError(
                f"{clusters} clusters of {len(target)} target images: there must be at least 2, "
                "and no more than images (embae.pul.clusters)"
            )
        if not -1 <= threshold < 1:
            raise ValueError(f"threshold {threshold}: a cosine similarity, at least -1, below 1")
        if monitor_pids is not None and len(monitor_pids) != len(target):
            raise ValueError(f"{len(monitor_pids)} monitor_pids for {len(target)} target images")
        self.target, self.rounds, self.clusters = target, rounds, clusters
        self.threshold, self.near_any_seed, self.restart = threshold, near_any_seed, restart
        self.monitor_pids = None if monitor_pids is None else np.asarray(monitor_pids)
        self.initial: dict[str, torch.Tensor] = {}

    def learns_from(self) -> ImageRecords | None:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        names = ("rounds", "clusters", "threshold", "near_any_seed", "restart")
        mine = {name: getattr(self, name) for name in names}
        return {**super().identity(), **mine, "images": len(self.target)}

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase for each round."""
        self.initial = copy.deepcopy(self.model.state_dict()) if self.restart else {}
        return [Round(number, self, max_epoch) for number in range(1, self.rounds + 1)]


class Round(SoftmaxPhase):
    """One round. Its clusters are part of its state, so a resumed round keeps them."""

    engine: ImagePULEngine

    def __init__(self, number: int, engine: ImagePULEngine, epochs: int) -> None:
        super().__init__(f"round {number}", engine, engine.target, "target", epochs)

    def start_epoch(self, epoch: int) -> float:
        """Clusters, unless this round has done so; then see :meth:`SoftmaxPhase.start_epoch`."""
        if self.classifier is None:
            self.learn_classes(self._cluster())
            if self.engine.restart:
                self.engine.model.load_state_dict(self.engine.initial)
        return super().start_epoch(epoch)

    def _embeddings(self) -> Floats:
        """The target's embeddings (N, D) by the weights of the moment, of unmirrored images."""
        model, store = self.engine.model.eval(), self.engine.store
        if self.features is not None:
            h = self.features[:, :1]
        else:
            h = store.features(model, self.records, self.label, "none", keep=False).features
        return embed_views(model.f_emb, h, normalize=False).cpu().numpy()

    def _cluster(self) -> torch.Tensor:
        """A class for each reliable image, −1 for the others: (N,)."""
        engine, features = self.engine, self._embeddings()
        centres, labels = kmeans(
            features, engine.clusters, seeded(engine.seed, engine.stage, self.name, "kmeans")
        )
        kept = reliable_images(
            features, centres, labels, engine.threshold, engine.near_any_seed
        ).kept
        used, numbers = np.unique(labels[kept], return_inverse=True)
        self.report = {"kept": int(kept.sum()), "clusters": len(used)}
        if engine.monitor_pids is not None:
            self.report["purity"] = purity(labels[kept], engine.monitor_pids[kept])
        said = ", ".join(f"{name} {value:.6g}" for name, value in self.report.items())
        logger.info("pul, %s: of %d images %s", self.name, len(kept), said)
        if len(used) < 2:
            raise ValueError(
                f"pul, {self.name}: only {int(kept.sum())} of {len(kept)} images, in {len(used)} "
                "cluster(s), are reliable, which is nothing to learn from. The embeddings have "
                f"collapsed, or the threshold {engine.threshold} (embae.pul.threshold) is too high"
            )
        classes = np.full(len(kept), -1, dtype=np.int64)
        classes[kept] = numbers.reshape(-1)
        return torch.from_numpy(classes)
