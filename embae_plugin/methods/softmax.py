"""Learning identities as classes: softmax with dropout on the embedding (Zheng et al., 2016).

:class:`SoftmaxPhase` fine-tunes a network on images with class numbers, wherever those come from:
from the labelled sources here, which gives PUL its own baseline, and from clusters in ``pul.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.data.augment import Augmentation
from embae_plugin.data.records import ImageRecords
from embae_plugin.losses.bottleneck import dropout
from embae_plugin.models.dense import new_linear
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import precision_name, resolve_precision


class ImageIdentificationEngine(StageEngine):
    """Trains trunk and embedding to tell the sources' identities apart by a softmax.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model, or one of :meth:`EmbAE.of_trunk`; the classifier is no part of it.
        lr, momentum: of SGD, constant.
        batch_size: images in a step.
        dropout: between embedding and classifier.
        transforms: of training images, those of :class:`Augmentation`.
        heads_only: keep the trunk as it is and learn f_emb on cached features: seconds instead
            of hours on a CPU, but not the published method, in which the trunk learns.
        precision: of the trunk: ``auto``, ``float32`` or ``bf16``.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ValueError: settings that cannot work.
    """

    stage = "identification"
    model_types = (EmbAE,)
    scored_phases = ("softmax",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        *,
        lr: float = 1e-3,
        momentum: float = 0.9,
        batch_size: int = 16,
        dropout: float = 0.5,
        transforms: Sequence[str] = ("random_flip",),
        heads_only: bool = False,
        precision: str = "auto",
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        super().__init__(datamanager, model, use_gpu, seed, store)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout}: a share of the features, at least 0 and below 1")
        if batch_size < 2:
            raise ValueError(f"batch size {batch_size}: batch norm needs at least 2 images")
        if heads_only and not list(model.f_emb.parameters()):
            raise ValueError("heads_only leaves nothing to learn: this model is a trunk alone")
        self.lr, self.momentum, self.batch_size, self.dropout = lr, momentum, batch_size, dropout
        self.augment = Augmentation(tuple(transforms), self.store.mean, self.store.std)
        self.heads_only, self.trunk_learns = heads_only, not heads_only
        self.bf16 = resolve_precision(precision, self.device)

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        names = ("lr", "momentum", "batch_size", "dropout", "heads_only")
        return {
            **super().identity(),
            **{name: getattr(self, name) for name in names},
            "transforms": list(self.augment.transforms),
            "images": len(self.data.source),
            **({} if self.heads_only else {"precision": precision_name(self.bf16)}),
        }

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, on the sources' identities; the same pid never means two people there."""
        pids = self.data.source.pids
        if pids is None:
            raise ValueError("a softmax learns from identities; the source images carry none")
        phase = SoftmaxPhase("softmax", self, self.data.source, "source", max_epoch)
        phase.learn_classes(torch.unique(torch.from_numpy(pids), return_inverse=True)[1])
        return [phase]


class SoftmaxPhase:
    """SGD on the cross entropy of a fresh linear classifier, trunk and f_emb learning with it.

    Args:
        name: of the phase, in logs and checkpoints.
        engine: whose model and settings are used.
        records: N images; their identities, if any, are not looked at.
        label: what progress bars call the images.
        epochs: passes over the images that have a class.
    """

    def __init__(
        self,
        name: str,
        engine: ImageIdentificationEngine,
        records: ImageRecords,
        label: str,
        epochs: int,
    ) -> None:
        self.name, self.engine, self.epochs = name, engine, epochs
        self.records, self.label = records, label
        self.steps = max(1, len(records) // engine.batch_size)
        self.report: dict[str, float] = {}  # constants to log beside the loss
        self.features: torch.Tensor | None = None
        self.classifier: nn.Linear | None = None
        self.classes = self.plan = torch.zeros(0, dtype=torch.long)

    def learn_classes(self, classes: torch.Tensor) -> None:
        """Sets the (N,) class numbers, dense from 0, −1 for images to leave out.

        Raises:
            ValueError: fewer than two classes.
        """
        engine = self.engine
        count = int(classes.max()) + 1
        if count < 2:
            raise ValueError(f"{self.name}: a softmax needs at least 2 classes, there is {count}")
        self.classes = classes
        self.used = (classes >= 0).nonzero().flatten()
        self.batch = min(engine.batch_size, len(self.used))
        self.steps = len(self.used) // self.batch
        generator = seeded(engine.seed, engine.stage, self.name, "classifier")
        width = engine.model.feature_dim
        self.classifier = new_linear(width, count, generator).to(engine.device)
        parts = [engine.model.f_emb, self.classifier]
        parts += [] if engine.heads_only else [engine.model.trunk]
        self.optimizer = torch.optim.SGD(
            [p for part in parts for p in part.parameters()], engine.lr, engine.momentum
        )

    def start(self) -> None:
        """Opens the images, or the cached features; freezes what is not learned."""
        engine, model = self.engine, self.engine.model
        model.to(memory_format=torch.channels_last).requires_grad_(False).eval()
        model.f_emb.requires_grad_(True)
        if engine.heads_only:
            cached = engine.store.features(model, self.records, self.label)
            self.features = cached.features
        else:
            model.trunk.requires_grad_(True)
            self.bank = engine.store.images(self.records, self.label)

    def start_epoch(self, epoch: int) -> float:
        """Draws the epoch's batches: each image once, in random order, less a short last batch."""
        engine = self.engine
        engine.model.f_emb.train()
        engine.model.trunk.train(not engine.heads_only)
        generator = seeded(engine.seed, engine.stage, self.name, epoch)
        order = self.used[torch.randperm(len(self.used), generator=generator)]
        self.plan = order[: self.steps * self.batch].view(self.steps, self.batch)
        return engine.lr

    def _embed(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Embeddings of the augmented images at ``index``, with their graph."""
        engine = self.engine
        if self.features is not None:
            view = torch.randint(self.features.shape[1], index.shape, generator=generator)
            h = self.features[index.to(engine.device), view.to(engine.device)]
        else:
            batch = engine.augment(self.bank.batch(index), generator)
            with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
                h = engine.model.trunk(batch)
        return engine.model.f_emb(h).float()  # type: ignore[no-any-return]

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        """One step; returns the cross entropy and the share of images classified rightly."""
        engine, index = self.engine, self.plan[step]
        generator = seeded(engine.seed, engine.stage, self.name, epoch, step)
        embedding = dropout(self._embed(index, generator), engine.dropout, generator)
        logits = self._started()(embedding)
        classes = self.classes[index].to(engine.device)
        loss = F.cross_entropy(logits, classes)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        right = (logits.detach().argmax(1) == classes).float().mean()
        constants = {name: torch.tensor(v, dtype=torch.double) for name, v in self.report.items()}
        return {"loss": loss.detach(), "accuracy": right, **constants}

    def _started(self) -> nn.Linear:
        if self.classifier is None:
            raise RuntimeError("the phase has no classes yet")
        return self.classifier

    def state_dict(self) -> dict[str, Any]:
        """Classes, classifier, optimiser and report; nothing before there are classes."""
        if self.classifier is None:
            return {}
        return {
            "classes": self.classes,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "report": dict(self.report),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        if state:
            self.learn_classes(state["classes"])
            self._started().load_state_dict(state["classifier"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.report = state["report"]

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step."""
        names = [self.records.paths[i] for i in self.plan[step].tolist()]
        return f"The batch's images: {', '.join(names)}"
