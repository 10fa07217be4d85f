"""From features to identities: clusters of the target's crops taught as if they were people.

Each round clusters the embeddings of the moment (k-reciprocal Jaccard distances less each
camera's mean, DBSCAN) and then learns to tell the clusters apart: every crop is compared with the
centre of every cluster, kept in a memory that moves slowly with the crops that are seen (the
cluster contrast of Dai et al., 2021, itself after Ge et al., NeurIPS 2020). Crops in no cluster
teach nothing that round. No label of the target is read.

Either f_emb learns, on cached features and in seconds, or the trunk does, on images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin import distributed
from embae_plugin.clustering import PseudoLabels, pseudo_labels
from embae_plugin.clustering.neighbours import SEARCHES
from embae_plugin.data.augment import Augmentation
from embae_plugin.data.few_cameras import camera_batches, most_cameras
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_stored
from embae_plugin.methods.camera_statistics import renew
from embae_plugin.methods.norm import StatisticsPhase
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.models.camera_norm import (
    at_cameras,
    camera_layers,
    has_batch_norm,
    knows_cameras,
)
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Batch, EndOfPhase, OptimisedPhase, Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.shared_batch import send_statistics
from embae_plugin.training.stage_engine import History, Outcome, StageEngine
from embae_plugin.training.train_step import PRECISIONS

logger = logging.getLogger(__name__)

Doubts = Callable[[PseudoLabels], str]


class NotPeople(ValueError):
    """The first clusters are not to be learned from. No weight of the model has changed."""


@dataclass(frozen=True)
class ClusterSettings(Settings, node="clusters"):
    """Pseudo-labels by clusters."""

    rounds: int = setting(2, "Rounds in which f_emb learns; more of them turn downwards.", above=0,
                          compared=False)
    trunk_rounds: int = setting(8, "Rounds in which the trunk learns.", above=0, compared=False)
    eps: float = setting(0.5, "Jaccard distance of neighbours.", above=0, below=1)
    min_samples: int = setting(4, "Neighbours that make a crop the core of a cluster.", above=0)
    k1: int = setting(30, "Nearest neighbours that are compared, see pseudo_labels.", above=0)
    k2: int = setting(6, "Neighbours over which they are averaged.", above=0)
    neighbours: str = setting("auto", "exact compares each two crops, approximate (faiss-cpu) "
                              "those of one region; auto: exact on a GPU, and up to 200,000 crops.",
                              choices=SEARCHES)
    temperature: float = setting(0.05, "Of the comparison with the clusters' centres.", above=0)
    keep: float = setting(0.4, "Momentum: the share of a cluster's centre that stays when crops of "
                          "it are seen.", least=0, most=1)
    lr: float = setting(3e-4, "Adam's learning rate …", above=0)
    final_lr: float = setting(1e-5, "… and that of the last round, after an exponential decay.",
                              above=0)
    constant_rounds: int = setting(5, "Rounds before the decay.", least=0)
    weight_decay: float = setting(5e-4, "Adam's.", least=0)
    batch_size: int = setting(72, "P·K; of many cameras see camera_batches.", above=0)
    num_instances: int = setting(4, "K crops of each cluster.", above=0)
    steps: int = setting(0, "In a round; 0 for a pass over all images.", least=0, key="")
    transforms: tuple[str, ...] = setting(("random_flip", "random_erase"), "Of training images.",
                                          key="")
    learn: str = setting("trunk", "What learns: the trunk, on images, or f_emb, on cached "
                         "features.", key="", choices=("heads", "trunk"))
    precision: str = setting("auto", "Of the trunk.", key="embae.embedding.precision",
                             choices=PRECISIONS)

    def check(self) -> None:
        """See :class:`Settings`."""
        size, each = self.batch_size, self.num_instances
        if size < 2 * each or size % each:
            raise ValueError(f"embae.clusters.batch_size is {size}; it must be a multiple of "
                             f"embae.clusters.num_instances, {each}, at least twice it")


@register_method(
    Row("clusters-baseline", help="pseudo-labels taught to f_emb, from the baseline",
        fixed={"learn": "heads"}, adapts=False),
    Row("clusters-heads", "norm", "pseudo-labels taught to f_emb", {"learn": "heads"},
        output="joint"),
    Row("clusters-cam", "norm+cam", "pseudo-labels taught to f_emb, from norm+cam",
        {"learn": "heads"}, output="joint"),
    Row("clusters-trunk", "norm", "pseudo-labels taught to the whole network", {"learn": "trunk"}),
    Row("clusters-trunk-unnamed", "clusters-trunk", "the same model, told no camera",
        show="unnamed", adapts=False),
)
class ImageClusterEngine(StageEngine):
    """Pseudo-labels as an engine; ``max_epoch`` of :meth:`run` are the rounds.

    Statistics by camera, if the model has them, are learned along. With ``learn`` trunk, its
    features h are compared (or z_id of somebody else's network), and are the model's output then.

    Args:
        datamanager, model, part, **given: see :class:`StageEngine` and :class:`ClusterSettings`;
            ``learn`` may be given as third argument.
        doubts: called with the clusters of each round; returns a reason not to learn from them, or
            an empty string.

    Raises:
        ValueError: no target images, or settings that cannot work.
    """

    settings_class = ClusterSettings
    selector = "learn"
    labels = "clusters"
    scored_phases = ("rounds",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        part: str = "",
        *,
        doubts: Doubts | None = None,
        **given: Any,
    ) -> None:
        super().__init__(datamanager, model, part, **given)
        if len(self.target) < 2:
            raise ValueError("there is one target image, and nothing to learn from it")
        self.doubts = doubts
        self.trunk_learns = self.settings.learn == "trunk"
        self.augment = Augmentation(self.settings.transforms, self.store.mean, self.store.std)
        if self.trunk_learns:
            self.model.output = self.model.learned_output

    @classmethod
    def stage_of(cls, settings: ClusterSettings) -> str:
        """See :meth:`StageEngine.stage_of`."""
        return f"clusters-{settings.learn}"

    @classmethod
    def check_model(cls, model: EmbAE, settings: Any, alone: bool) -> None:
        """See :meth:`StageEngine.check_model`."""
        if settings.learn == "heads" and not list(model.f_emb.parameters()):
            raise ValueError(
                f"{model.trunk.name} has no embedding layer behind its pooled features, which is "
                "all that clusters-heads changes: choose clusters-trunk or norm"
            )

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {**super().identity(), "labels": self.labels}

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def epochs(self) -> int:
        """The rounds of what learns."""
        return int(self.settings.trunk_rounds if self.trunk_learns else self.settings.rounds)

    def words(self, rounds: int = 0) -> str:
        """See :meth:`StageEngine.words`."""
        whole = "the network" if self.model.learned_output == "z_id" else "the trunk"
        learned = whole if self.trunk_learns else "f_emb"
        return f"{rounds or self.epochs()} rounds of pseudo-labels taught to {learned}"

    def groups(self, x: torch.Tensor) -> PseudoLabels:
        """What a round takes for people, by the (N, d) embeddings of the moment."""
        node = self.settings
        return pseudo_labels(
            x, self.target.camids, eps=node.eps, min_samples=node.min_samples, k1=node.k1,
            k2=node.k2, search=node.neighbours,
        )

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """The rounds, and new statistics of the trunk's cameras behind them if it has any."""
        rounds: list[Phase] = [Rounds(self, max_epoch)]
        return rounds + ([StatisticsPhase(self)] if self.trunk_learns else [])

    def adapt(self, save_dir: str | Path, guards: Any, **options: Any) -> Outcome:
        """:meth:`run`, if the clusters look like people; else the model stays as it was."""
        self.doubts = lambda found: found.doubts(guards.least_kept, guards.largest_cluster)
        try:
            history = self.run(save_dir, **options)
        except NotPeople as why_not:
            return self._left_out([], str(why_not))
        learned = [row for row in history if "clusters" in row]
        lost = self.epochs() - len(learned) + 1 if len(learned) < self.epochs() else 0
        if lost == self.epochs():
            return self._left_out(history, "the clusters of round 2 do not look like people")
        numbers = {key: learned[-1][key] for key in ("kept", "clusters", "cameras")}
        words = self.words(self.epochs() - lost)
        return Outcome(history, words, {**numbers, **({"rounds_left_out": lost} if lost else {})})

    def _left_out(self, history: History, why_not: str) -> Outcome:
        logger.warning("pseudo-labels are left out: %s", why_not)
        self.model.eval().requires_grad_(True).output = self.model.learned_output
        return Outcome(history, "", {"left_out": why_not})


class Rounds(OptimisedPhase):
    """Rounds of clustering and learning; an epoch is a round.

    The clusters of every round are looked at. Where those of the first are nothing to learn from,
    :class:`NotPeople` is raised. Where those of a later one aren't, the round before has done
    harm: the weights that it began with come back, and the phase ends.
    """

    engine: ImageClusterEngine

    def __init__(self, engine: ImageClusterEngine, rounds: int) -> None:
        super().__init__(engine, "rounds", rounds, engine.target.paths)
        node = engine.settings
        self.lr, self.final_lr, self.constant_epochs = node.lr, node.final_lr, node.constant_rounds
        self.steps = node.steps or max(1, len(engine.target) // node.batch_size)
        self.clustered = -1  # the round that the labels are of
        self.labels = torch.zeros(0, dtype=torch.long)
        self.centres = torch.zeros(0)
        self.good: dict[str, torch.Tensor] = {}  # the weights that the round began with
        self.camids = torch.from_numpy(engine.target.camids)
        if engine.model.camera_names:
            self.camids = engine.model.camera_numbers(engine.target.camera_names())
        self.features: torch.Tensor | None = None
        self.shared = engine.trunk_learns

    def parts(self) -> list[nn.Module]:
        """See :class:`OptimisedPhase`."""
        model = self.engine.model
        return model.network() if self.engine.trunk_learns else [model.f_emb]

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """See :class:`OptimisedPhase`."""
        decay = self.engine.settings.weight_decay
        return torch.optim.Adam(parameters, lr=1e-3, weight_decay=decay, fused=True)

    def start(self) -> None:
        """Opens the images, or the cached features."""
        super().start()
        engine = self.engine
        mixed = self._learns_by_camera() and any(has_batch_norm(part) for part in self.learned)
        if mixed and self.shared and distributed.size() > 1:
            raise ValueError(f"{engine.stage}: only a part of the network has statistics by "
                             "camera, which several processes cannot share out: start without "
                             "torchrun")
        if engine.trunk_learns:
            engine.model.to(memory_format=torch.channels_last)
            self.bank = engine.store.images(engine.target, "target")
        else:
            self.features = engine.store.features(engine.model, engine.target, "target")

    def start_epoch(self, epoch: int) -> float:
        """Clusters, unless this round has done so; then see :class:`OptimisedPhase`."""
        if self.clustered != epoch:
            self._renew_statistics(epoch)
            self._cluster(epoch)
        return super().start_epoch(epoch)

    def batches(self, epoch: int) -> torch.Tensor:
        """(steps, P·K) crops, K of each of P clusters."""
        engine, k = self.engine, self.engine.settings.num_instances
        used = (self.labels >= 0).nonzero().flatten()
        labels = self.labels[used].numpy()
        cameras, clusters = np.zeros_like(labels), len(np.unique(labels))
        if self._learns_by_camera():
            cameras = self.camids[used].numpy()
        batches = camera_batches(
            labels, cameras, min(engine.settings.batch_size // k, clusters), k, self.steps,
            seeded(engine.seed, engine.stage, epoch),
        )
        return used[batches]

    def generator(self, epoch: int, step: int) -> torch.Generator:
        """See :class:`OptimisedPhase`."""
        return seeded(self.engine.seed, self.engine.stage, epoch, step)

    def _learns_by_camera(self) -> bool:
        return any(knows_cameras(part) for part in self.learned)

    def _renew_statistics(self, epoch: int) -> None:
        """Of cameras of which each batch has few: a round moves each one's too seldom."""
        engine = self.engine
        many = len(np.unique(self.camids.numpy())) > most_cameras(engine.settings.batch_size)
        if epoch and many and self._learns_by_camera():
            renew(engine.model, engine.target, engine.store, engine.seed)
            if engine.trunk_learns:
                engine.model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _embeddings(self) -> torch.Tensor:
        """(N, d) of the target's crops by the weights of the moment, of length 1."""
        engine, model = self.engine, self.engine.model.eval()
        h = self.features
        if h is None:
            first = self.clustered < 0  # of weights whose features an earlier step may have left
            h = engine.store.features(model, engine.target, "target", keep=first)
        return embed_stored(model, h, engine.target)

    def _cluster(self, epoch: int) -> None:
        engine, x = self.engine, self._embeddings()
        found = engine.groups(x)
        why_not = engine.doubts(found) if engine.doubts else ""
        if found.clusters < 2:
            why_not = why_not or (
                f"{engine.stage}, round {epoch + 1}: {found.clusters} cluster(s) among "
                f"{len(found.labels)} images are nothing to learn from. There may be too few "
                "pictures of each person; a larger eps, or a smaller min_samples, finds more"
            )
        if why_not and epoch == 0:
            raise NotPeople(why_not)
        if why_not:
            engine.model.load_state_dict(self.good)
            self.clustered = -1
            raise EndOfPhase(why_not)
        self.report = {
            "kept": float(len(found.kept)),
            "clusters": float(found.clusters),
            "cameras": found.cameras_per_cluster(engine.target.camids),
        }
        logger.info(
            "%s, round %d: %d of %d images in %d clusters of %.2f cameras", engine.stage,
            epoch + 1, len(found.kept), len(found.labels), found.clusters, self.report["cameras"],
        )
        self.labels = torch.from_numpy(found.labels)
        self.centres = self._centres(found, x)
        distributed.copy_from_rank_zero(self.centres)
        self.clustered = epoch
        self.good = {key: v.clone() for key, v in engine.model.state_dict().items()}

    def _centres(self, found: PseudoLabels, x: torch.Tensor) -> torch.Tensor:
        """(C, d) mean of each cluster, of what is compared: h of the trunk, or z_id."""
        engine, used = self.engine, torch.from_numpy(found.kept)
        if not engine.trunk_learns and engine.model.output != "z_id":
            x = self._z_id(x)
        x = F.normalize(x[used.to(x.device)], dim=1)
        sums = x.new_zeros(found.clusters, x.shape[1])
        sums.index_add_(0, self.labels[used].to(x.device), x)
        return F.normalize(sums, dim=1)

    def _z_id(self, x: torch.Tensor) -> torch.Tensor:
        """z_id of the crops whose embeddings are ``x``."""
        model = self.engine.model
        if model.output == "joint":  # which ends with z_id
            return x[:, -model.z_id_dim :]
        output, model.output = model.output, "z_id"
        try:
            return self._embeddings()
        finally:
            model.output = output

    def _embed(self, batch: Batch) -> torch.Tensor:
        """What is compared, of length 1, for images sorted by camera; own rows with their graph."""
        engine, index, camids = self.engine, batch.rows, self.camids[batch.rows]
        if self.features is not None:
            view = torch.randint(self.features.shape[1], index.shape, generator=batch.generator)
            h = self.features[index.to(engine.device), view.to(engine.device)]
            with at_cameras(engine.model.f_emb, camids):
                return F.normalize(engine.model.f_emb(h).float(), dim=1)
        share = self.share(len(index), camids if self._learns_by_camera() else None)
        images = share.of(engine.augment(self.bank.batch(index), batch.generator))
        mine, own = self.centres.new_zeros(0, self.centres.shape[1]), share.of(camids)
        if len(own):
            with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
                mine = F.normalize(engine.model.network_features(images, own), dim=1)
        self.moved = own.tolist(), camids.tolist()
        return share.gather(mine)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy over the clusters."""
        rows = batch.rows[self.camids[batch.rows].argsort(stable=True)]
        x, labels = self._embed(batch._replace(rows=rows)), self.labels[rows].to(self.engine.device)
        self.seen = x.detach(), labels
        temperature = self.engine.settings.temperature
        return {"loss": F.cross_entropy(x @ self.centres.T / temperature, labels)}

    def after_step(self, batch: Batch) -> None:
        """Moves the centres of the batch's clusters; all ranks keep one memory."""
        self.move_centres(*self.seen)
        if self.shared:
            layers = [layer for part in self.learned for layer in camera_layers(part)]
            send_statistics(layers, *self.moved)

    def move_centres(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Moves the centres of the clusters ``labels`` (B,) towards the mean of ``x`` (B, d)."""
        seen, which = torch.unique(labels, return_inverse=True)
        before = self.centres[seen]
        mean = F.normalize(torch.zeros_like(before).index_add_(0, which, x), dim=1)
        keep = self.engine.settings.keep
        self.centres[seen] = F.normalize(keep * before + (1 - keep) * mean, dim=1)

    def state(self) -> dict[str, Any]:
        """The round's labels and centres, and the weights that it began with."""
        return {
            "clustered": self.clustered, "labels": self.labels, "centres": self.centres.cpu(),
            "good": self.good,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`OptimisedPhase`."""
        self.clustered, self.labels = state["clustered"], state["labels"]
        self.centres = state["centres"].to(self.engine.device)
        self.good = state.get("good", {})
