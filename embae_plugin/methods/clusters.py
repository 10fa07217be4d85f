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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from embae_plugin.clustering import PseudoLabels, pseudo_labels
from embae_plugin.clustering.pseudo_labels import Ints, check_settings, require_scikit_learn
from embae_plugin.data.augment import Augmentation
from embae_plugin.data.few_cameras import camera_batches, most_cameras
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_stored
from embae_plugin.methods.camera_statistics import renew
from embae_plugin.methods.embedding_phases import set_lr
from embae_plugin.methods.norm import StatisticsPhase
from embae_plugin.models.camera_norm import at_cameras, knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import exponential_lr, seeded
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import precision_name, resolve_precision

logger = logging.getLogger(__name__)

PARTS = ("heads", "trunk")


class NotPeople(ValueError):
    """The first clusters are not to be learned from; the model is as it was."""


class ImageClusterEngine(StageEngine):
    """Pseudo-labels as an engine; ``max_epoch`` of :meth:`run` are the rounds.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model; statistics by camera, if it has them, are learned along.
        learn: ``heads``: f_emb, on cached features; ``trunk``: the trunk, on images, whose
            features h are compared (the model's ``output`` becomes h).
        eps, min_samples, k1, k2: of the clusters, see :func:`pseudo_labels`.
        temperature: of the comparison with the clusters' centres.
        keep: share of a centre that stays when crops of its cluster are seen.
        lr, final_lr, constant_rounds: Adam's rate, constant for so many rounds, then exponential.
        weight_decay: Adam's.
        steps: in a round; 0 for as many as pass over all images once.
        batch_size, num_instances: P·K and K; of many cameras, see :func:`camera_batches`.
        transforms: of training images, those of :class:`Augmentation`.
        doubts: says of the first round's clusters why they are not to be learned from, or "".
        identities: (N,) true identities of the target's images, to learn in place of clusters:
            the supervised upper bound that adaptation is measured against, and nothing else.
        precision: of the trunk: ``auto``, ``float32`` or ``bf16``.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: no target images, or settings that cannot work.
    """

    scored_phases = ("rounds",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        learn: str = "trunk",
        *,
        eps: float = 0.5,
        min_samples: int = 4,
        k1: int = 30,
        k2: int = 6,
        temperature: float = 0.05,
        keep: float = 0.4,
        lr: float = 3e-4,
        final_lr: float = 1e-5,
        constant_rounds: int = 5,
        weight_decay: float = 5e-4,
        steps: int = 0,
        batch_size: int = 72,
        num_instances: int = 4,
        transforms: Sequence[str] = ("random_flip", "random_erase"),
        doubts: Callable[[PseudoLabels], str] | None = None,
        identities: Ints | None = None,
        precision: str = "auto",
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        require_scikit_learn()
        super().__init__(datamanager, model, use_gpu, seed, store)
        target = self.data.target_train
        if target is None or len(target) < 2:
            raise ValueError("there are no target images: name a target that is not a source")
        if learn not in PARTS:
            raise ValueError(f"learn is {learn!r}: must be one of {', '.join(PARTS)}")
        if num_instances < 1 or batch_size < 2 * num_instances or batch_size % num_instances:
            raise ValueError(
                f"a batch of {batch_size} images with {num_instances} of each cluster: the second "
                "must divide the first, at least twice"
            )
        if identities is not None and len(identities) != len(target):
            raise ValueError(f"{len(identities)} identities for {len(target)} target images")
        if temperature <= 0 or not 0 <= keep <= 1:
            raise ValueError(f"temperature {temperature} must be positive, keep {keep} from 0 to 1")
        if steps < 0:
            raise ValueError(f"steps of a round is {steps}: 0, for a pass over all images, or more")
        check_settings(eps, min_samples, k1, k2)
        self.target, self.learn, self.stage = target, learn, f"clusters-{learn}"
        self.trunk_learns = learn == "trunk"
        self.identities, self.doubts = identities, doubts
        self.clustering = {"eps": eps, "min_samples": min_samples, "k1": k1, "k2": k2}
        self.schedule = {"lr": lr, "final_lr": final_lr, "constant_epochs": constant_rounds}
        self.temperature, self.keep, self.weight_decay = temperature, keep, weight_decay
        self.steps, self.batch_size, self.num_instances = steps, batch_size, num_instances
        self.augment = Augmentation(tuple(transforms), self.store.mean, self.store.std)
        self.bf16 = resolve_precision(precision, self.device)
        if self.trunk_learns:
            self.model.output = self.model.learned_output

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        names = ("temperature", "keep", "weight_decay", "steps", "batch_size", "num_instances")
        return {
            **super().identity(),
            **self.clustering,
            **self.schedule,
            **{name: getattr(self, name) for name in names},
            "transforms": list(self.augment.transforms),
            "target": self.data.target,
            "images": len(self.target),
            **({"precision": precision_name(self.bf16)} if self.trunk_learns else {}),
            **({} if self.identities is None else {"labels": "true identities"}),
        }

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """The rounds, and new statistics of the trunk's cameras behind them if it has any."""
        rounds: list[Phase] = [Rounds(self, max_epoch)]
        return rounds + ([StatisticsPhase(self)] if self.trunk_learns else [])


class Rounds:
    """Rounds of clustering and learning; an epoch is a round."""

    name = "rounds"

    def __init__(self, engine: ImageClusterEngine, rounds: int) -> None:
        self.engine, self.epochs = engine, rounds
        self.steps = engine.steps or max(1, len(engine.target) // engine.batch_size)
        self.clustered = -1  # the round that the labels are of
        self.labels = torch.zeros(0, dtype=torch.long)
        self.centres = self.plan = torch.zeros(0)
        self.report: dict[str, float] = {}
        self.camids = torch.from_numpy(engine.target.camids)
        if engine.model.camera_names:
            self.camids = engine.model.camera_numbers(engine.target.camera_names())
        self.features: torch.Tensor | None = None

    def start(self) -> None:
        """Opens the images, or the cached features; makes the optimiser."""
        engine, model = self.engine, self.engine.model
        model.requires_grad_(False).eval()
        self.learned = model.network() if engine.trunk_learns else [model.f_emb]
        for part in self.learned:
            part.requires_grad_(True)
        if engine.trunk_learns:
            model.to(memory_format=torch.channels_last)
            self.bank = engine.store.images(engine.target, "target")
        else:
            self.features = engine.store.features(model, engine.target, "target").features
        self.optimizer = torch.optim.Adam(
            [p for part in self.learned for p in part.parameters()], lr=1e-3,
            weight_decay=engine.weight_decay, fused=True,
        )

    def start_epoch(self, epoch: int) -> float:
        """Clusters, unless this round has done so, and draws the round's batches."""
        engine = self.engine
        if self.clustered != epoch:
            self._renew_statistics(epoch)
            self._cluster(epoch)
        used = (self.labels >= 0).nonzero().flatten()
        labels, k = self.labels[used].numpy(), engine.num_instances
        cameras, clusters = np.zeros_like(labels), len(np.unique(labels))
        if self._learns_by_camera():
            cameras = self.camids[used].numpy()
        batches = camera_batches(
            labels, cameras, min(engine.batch_size // k, clusters), k, self.steps,
            seeded(engine.seed, engine.stage, epoch),
        )  # fmt: skip
        self.plan = used[batches]
        rate = exponential_lr(epoch, self.epochs, **engine.schedule)  # type: ignore[arg-type]
        set_lr(self.optimizer, rate)
        for part in self.learned:
            part.train()
        return rate

    def _learns_by_camera(self) -> bool:
        return any(knows_cameras(part) for part in self.learned)

    def _renew_statistics(self, epoch: int) -> None:
        """Of cameras of which each batch has few: a round moves each one's too seldom."""
        engine = self.engine
        many = len(np.unique(self.camids.numpy())) > most_cameras(engine.batch_size)
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
            h = engine.store.features(model, engine.target, "target", keep=first).features
        return embed_stored(model, h, engine.target)

    def _cluster(self, epoch: int) -> None:
        engine, x = self.engine, self._embeddings()
        if engine.identities is not None:
            found = PseudoLabels(np.unique(engine.identities, return_inverse=True)[1].reshape(-1))
        else:
            found = pseudo_labels(x, engine.target.camids, **engine.clustering)  # type: ignore[arg-type]
        why_not = engine.doubts(found) if engine.doubts and epoch == 0 else ""
        if why_not:
            raise NotPeople(why_not)
        self.report = {
            "kept": float(len(found.kept)),
            "clusters": float(found.clusters),
            "cameras": found.cameras_per_cluster(engine.target.camids),
        }
        logger.info(
            "%s, round %d: %d of %d images in %d clusters of %.2f cameras", engine.stage,
            epoch + 1, len(found.kept), len(found.labels), found.clusters, self.report["cameras"],
        )  # fmt: skip
        if found.clusters < 2:
            raise ValueError(
                f"{engine.stage}, round {epoch + 1}: {found.clusters} cluster(s) among "
                f"{len(found.labels)} images are nothing to learn from. There may be too few "
                "pictures of each person; a larger eps, or a smaller min_samples, finds more"
            )
        self.labels = torch.from_numpy(found.labels)
        self.centres = self._centres(found, x)
        self.clustered = epoch

    def _centres(self, found: PseudoLabels, x: torch.Tensor) -> torch.Tensor:
        """(C, d) mean of each cluster, of what is compared: h of the trunk, or z_id."""
        engine, used = self.engine, torch.from_numpy(found.kept)
        if not engine.trunk_learns:
            x = x[:, -engine.model.z_id_dim :]  # joint embeddings end with z_id
        x = F.normalize(x[used.to(x.device)], dim=1)
        sums = x.new_zeros(found.clusters, x.shape[1])
        sums.index_add_(0, self.labels[used].to(x.device), x)
        return F.normalize(sums, dim=1)

    def _embed(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What is compared, of length 1, for images sorted by camera, with its graph."""
        engine, camids = self.engine, self.camids[index]
        if self.features is not None:
            view = torch.randint(self.features.shape[1], index.shape, generator=generator)
            h = self.features[index.to(engine.device), view.to(engine.device)]
            with at_cameras(engine.model.f_emb, camids):
                return F.normalize(engine.model.f_emb(h).float(), dim=1)
        images = engine.augment(self.bank.batch(index), generator)
        with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            return F.normalize(engine.model.network_features(images, camids), dim=1)

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        """One step; returns the cross entropy over the clusters, and the round's clusters."""
        engine, index = self.engine, self.plan[step]
        index = index[self.camids[index].argsort(stable=True)]
        generator = seeded(engine.seed, engine.stage, epoch, step)
        x, labels = self._embed(index, generator), self.labels[index].to(engine.device)
        loss = F.cross_entropy(x @ self.centres.T / engine.temperature, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._move_centres(x.detach(), labels)
        constants = {name: torch.tensor(v, dtype=torch.double) for name, v in self.report.items()}
        return {"loss": loss.detach(), **constants}

    def _move_centres(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Moves the centres of the batch's clusters towards the mean of its crops of each."""
        sums = torch.zeros_like(self.centres).index_add_(0, labels, x)
        seen = torch.zeros(len(sums), 1, dtype=torch.bool, device=x.device)
        seen[labels] = True
        keep = self.engine.keep
        moved = F.normalize(keep * self.centres + (1 - keep) * F.normalize(sums, dim=1), dim=1)
        self.centres = torch.where(seen, moved, self.centres)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser, the round's labels and centres."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "clustered": self.clustered,
            "labels": self.labels,
            "centres": self.centres.cpu(),
            "report": dict(self.report),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.clustered, self.labels = state["clustered"], state["labels"]
        self.centres = state["centres"].to(self.engine.device)
        self.report = state["report"]

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step."""
        names = [self.engine.target.paths[i] for i in self.plan[step].tolist()]
        return f"The batch's images: {', '.join(names)}"
