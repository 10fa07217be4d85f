"""PUL: clustering and fine-tuning in turns (Fan, Zheng, Yan and Yang, 2018), the paper's [5].

A round clusters the target's embeddings, takes the images close to the heart of their cluster for
people it has recognised, and fine-tunes the network to tell those clusters apart; with better
embeddings, the next round keeps more. Written from the article's description.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from embae_plugin import distributed
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.methods.registry import BASELINE, register_method
from embae_plugin.methods.softmax import ImageIdentificationEngine, SoftmaxPhase, SoftmaxSettings
from embae_plugin.models.embae import EmbAE
from embae_plugin.progress import Progress
from embae_plugin.settings.fields import setting
from embae_plugin.training.phase import Phase
from embae_plugin.training.schedule import seeded

if TYPE_CHECKING:
    from yacs.config import CfgNode

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
    means = KMeans(clusters, n_init=1, random_state=generator.initial_seed() % 2**32)
    # With more threads, partial sums are added up in the order in which the threads finish.
    with threadpool_limits(1), Progress("clustering", delay=2.0):
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


@dataclass(frozen=True)
class PULSettings(SoftmaxSettings, node="pul"):
    """PUL: clustering and fine-tuning in turns (Fan et al., 2018)."""

    base: str = setting("embedding", "What it starts from: stage 1's embedding, or the article's "
                        "own, a trunk trained to classify.", choices=("embedding", "softmax"),
                        compared=False)
    rounds: int = setting(25, "Of clustering and fine-tuning.", least=0)
    max_epoch: int = setting(20, "Epochs in each round.", least=0, compared=False)
    clusters: int = setting(750, "K: how many people the target is thought to show.", least=2)
    threshold: float = setting(0.85, "Of the cosine similarity to a cluster's seed.",
                               least=-1, below=1)
    near_any_seed: bool = setting(False, "A seed of any cluster will do, as in the authors' "
                                  "script; by default the image's own, as in the article.")
    restart: bool = setting(False, "Every round begins from the initial weights, as in the "
                            "authors' script.")

    def check(self) -> None:
        """See :class:`Settings`."""
        if self.base == "softmax" and self.heads_only:
            raise ValueError("embae.pul.heads_only leaves nothing to learn with embae.pul.base "
                             "softmax, which is a trunk alone")


@register_method("pul", help="clustering and fine-tuning in turns (Fan et al., 2018)")
class ImagePULEngine(ImageIdentificationEngine):
    """PUL as an engine; ``max_epoch`` of :meth:`run` are the epochs of a round (20 in the article).

    The model is an EmbAE model from stage 1, whose z_id is clustered, or the article's own base,
    one of :meth:`EmbAE.of_trunk` trained by :class:`ImageIdentificationEngine`.

    Args:
        monitor_pids: (N,) true identities of the target's images, to log how pure the kept
            clusters are. Only that number is made of them; nothing is learned from it.
        **given: see :class:`PULSettings` and :class:`StageEngine`.

    Raises:
        ValueError: no target images, fewer than clusters, or another setting that cannot work.
    """

    settings_class = PULSettings
    stage = "pul"
    scored_phases = ("round",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        part: str = "",
        *,
        monitor_pids: Sequence[int] | Ints | None = None,
        **given: Any,
    ) -> None:
        super().__init__(datamanager, model, part, **given)
        clusters, count = self.settings.clusters, len(self.target)
        if clusters > count:
            raise ValueError(
                f"{clusters} clusters of {count} target images: there must be at least 2, and no "
                "more than images (embae.pul.clusters)"
            )
        if monitor_pids is not None and len(monitor_pids) != count:
            raise ValueError(f"{len(monitor_pids)} monitor_pids for {count} target images")
        self.monitor_pids = None if monitor_pids is None else np.asarray(monitor_pids)
        self.initial: dict[str, torch.Tensor] = {}

    @classmethod
    def prepared(cls, model: EmbAE) -> EmbAE:
        """The model as it is."""
        return model

    @classmethod
    def start_of(cls, starts_from: str, cfg: CfgNode) -> str:
        """Stage 1's embedding, or PUL's own baseline."""
        return "pul-baseline" if cfg.embae.pul.base == "softmax" else BASELINE

    def epochs(self) -> int:
        """Of a round."""
        return int(self.settings.max_epoch)

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase for each round."""
        node = self.settings
        self.initial = copy.deepcopy(self.model.state_dict()) if node.restart else {}
        return [Round(number, self, max_epoch) for number in range(1, node.rounds + 1)]


class Round(SoftmaxPhase):
    """One round. Its clusters are part of its state, so a resumed round keeps them."""

    engine: ImagePULEngine

    def __init__(self, number: int, engine: ImagePULEngine, epochs: int) -> None:
        super().__init__(engine, f"round {number}", engine.target, "target", epochs)

    def start_epoch(self, epoch: int) -> float:
        """Clusters, unless this round has done so; then see :meth:`SoftmaxPhase.start_epoch`."""
        if self.classifier is None:
            self.learn_classes(self._cluster())
            if self.engine.settings.restart:
                self.engine.model.load_state_dict(self.engine.initial)
        return super().start_epoch(epoch)

    def _embeddings(self) -> Floats:
        """The target's embeddings (N, D) by the weights of the moment, of unmirrored images."""
        model, store = self.engine.model.eval(), self.engine.store
        if self.features is not None:
            h = self.features[:, :1]
        else:
            h = store.features(model, self.records, self.label, "none", keep=False)
        return embed_views(model.f_emb, h, normalize=False).cpu().numpy()

    def _cluster(self) -> torch.Tensor:
        """A class for each reliable image, −1 for the others: (N,)."""
        engine, features, node = self.engine, self._embeddings(), self.engine.settings
        generator = seeded(engine.seed, engine.stage, self.name, "kmeans")
        centres, labels = distributed.from_rank_zero(
            lambda: kmeans(features, node.clusters, generator)
        )
        kept = reliable_images(features, centres, labels, node.threshold, node.near_any_seed).kept
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
                f"collapsed, or the threshold {node.threshold} (embae.pul.threshold) is too high"
            )
        classes = np.full(len(kept), -1, dtype=np.int64)
        classes[kept] = numbers.reshape(-1)
        return torch.from_numpy(classes)
