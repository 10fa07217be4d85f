"""Learning identities as classes: softmax with dropout on the embedding (Zheng et al., 2016).

:class:`SoftmaxPhase` fine-tunes a network on images with class numbers, wherever those come from:
from the labelled sources here, which gives PUL its own baseline, and from clusters in ``pul.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.data.augment import Augmentation
from embae_plugin.data.records import ImageRecords
from embae_plugin.losses.bottleneck import dropout
from embae_plugin.methods.registry import INITIAL, register_method
from embae_plugin.models.dense import new_linear
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Batch, OptimisedPhase, Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.shared_batch import Share
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import PRECISIONS


@dataclass(frozen=True)
class SoftmaxSettings(Settings, node="pul"):
    """Fine-tuning by a softmax: of PUL, and of its own baseline."""

    baseline_epoch: int = setting(20, "With base softmax: epochs of its training.", least=0,
                                  compared=False)
    lr: float = setting(1e-3, "SGD's learning rate, constant.", above=0)
    momentum: float = setting(0.9, "SGD's.", least=0)
    batch_size: int = setting(16, "Images in a step.", least=2)
    dropout: float = setting(0.5, "Between embedding and classifier.", least=0, below=1)
    heads_only: bool = setting(False, "The trunk stays as it is and f_emb learns on cached "
                               "features: seconds, but not the article's method.")
    transforms: tuple[str, ...] = setting(("random_flip",), "Of training images.", key="")
    precision: str = setting("auto", "Of the trunk.", key="embae.embedding.precision",
                             choices=PRECISIONS)


@register_method("pul-baseline", starts_from=INITIAL, stage="identification", adapts=False,
                 along=True, help="a trunk trained to classify the sources' people, PUL's own base")
class ImageIdentificationEngine(StageEngine):
    """Trains trunk and embedding to tell the sources' identities apart by a softmax.

    The model is an EmbAE model, or one of :meth:`EmbAE.of_trunk`; the classifier is no part of
    it. See :class:`SoftmaxSettings` and :class:`StageEngine`.

    Raises:
        ValueError: settings that cannot work.
    """

    settings_class = SoftmaxSettings
    stage = "identification"
    scored_phases = ("softmax",)

    def __init__(self, datamanager: Any, model: EmbAE, part: str = "", **given: Any) -> None:
        super().__init__(datamanager, model, part, **given)
        self.heads_only = self.settings.heads_only
        if self.heads_only and not list(model.f_emb.parameters()):
            raise ValueError("heads_only leaves nothing to learn: this model is a trunk alone")
        self.augment = Augmentation(self.settings.transforms, self.store.mean, self.store.std)
        self.trunk_learns = not self.heads_only

    @classmethod
    def prepared(cls, model: EmbAE) -> EmbAE:
        """Its trunk alone."""
        return EmbAE.of_trunk(model.trunk)

    def epochs(self) -> int:
        """See :meth:`StageEngine.epochs`."""
        return int(self.settings.baseline_epoch)

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.data.source

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, on the sources' identities; the same pid never means two people there."""
        pids = torch.as_tensor(self.source.pids)
        phase = SoftmaxPhase(self, "softmax", self.source, "source", max_epoch)
        phase.learn_classes(torch.unique(pids, return_inverse=True)[1])
        return [phase]


class SoftmaxPhase(OptimisedPhase):
    """SGD on the cross entropy of a fresh linear classifier, trunk and f_emb learning with it.

    Args:
        engine: whose model and settings are used.
        name: of the phase, in logs and checkpoints.
        records: N images; their identities, if any, are not looked at.
        label: what progress bars call the images.
        epochs: passes over the images that have a class.
    """

    engine: ImageIdentificationEngine

    def __init__(
        self,
        engine: ImageIdentificationEngine,
        name: str,
        records: ImageRecords,
        label: str,
        epochs: int,
    ) -> None:
        super().__init__(engine, name, epochs, records.paths)
        self.records, self.label, self.lr = records, label, engine.settings.lr
        self.shared = not engine.heads_only
        self.steps = max(1, len(records) // engine.settings.batch_size)
        self.features: torch.Tensor | None = None
        self.classifier: nn.Linear | None = None
        self.classes = torch.zeros(0, dtype=torch.long)

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
        self.batch = min(engine.settings.batch_size, len(self.used))
        self.steps = len(self.used) // self.batch
        generator = seeded(engine.seed, engine.stage, self.name, "classifier")
        self.classifier = new_linear(engine.model.feature_dim, count, generator).to(engine.device)
        parts = [engine.model.f_emb, self.classifier]
        parts += [] if engine.heads_only else [engine.model.trunk]
        parameters = [p for part in parts for p in part.parameters()]
        self.optimizer = torch.optim.SGD(parameters, self.lr, engine.settings.momentum)

    def parts(self) -> list[nn.Module]:
        """See :class:`OptimisedPhase`."""
        model = self.engine.model
        return [model.f_emb] if self.engine.heads_only else [model.f_emb, model.trunk]

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """That of the classifier, if there is one; :meth:`learn_classes` makes another."""
        if self.classifier is not None:
            return self.optimizer
        return torch.optim.SGD(parameters, self.lr)

    def start(self) -> None:
        """Opens the images, or the cached features."""
        super().start()
        engine = self.engine
        engine.model.to(memory_format=torch.channels_last)
        if engine.heads_only:
            self.features = engine.store.features(engine.model, self.records, self.label)
        else:
            self.bank = engine.store.images(self.records, self.label)

    def batches(self, epoch: int) -> torch.Tensor:
        """Each image once, in random order, less a short last batch."""
        generator = seeded(self.engine.seed, self.engine.stage, self.name, epoch)
        order = self.used[torch.randperm(len(self.used), generator=generator)]
        return order[: self.steps * self.batch].view(self.steps, self.batch)

    def _embed(self, batch: Batch, share: Share) -> torch.Tensor:
        """Embeddings of this rank's rows of the batch's augmented images, with their graph."""
        engine, index = self.engine, batch.rows
        if self.features is not None:
            view = torch.randint(self.features.shape[1], index.shape, generator=batch.generator)
            h = self.features[index.to(engine.device), view.to(engine.device)]
        else:
            images = share.of(engine.augment(self.bank.batch(index), batch.generator))
            with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
                h = engine.model.trunk(images)
        return engine.model.f_emb(h).float()  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy, and the share of images classified rightly."""
        if self.classifier is None:
            raise RuntimeError("the phase has no classes yet")
        share = self.share(len(batch.rows))
        whole = share.gather(self._embed(batch, share))  # each rank drops what one would
        embedding = share.of(dropout(whole, self.engine.settings.dropout, batch.generator))
        logits = share.gather(self.classifier(embedding))
        classes = self.classes[batch.rows].to(self.engine.device)
        right = (logits.detach().argmax(1) == classes).float().mean()
        return {"loss": F.cross_entropy(logits, classes), "accuracy": right}

    def state(self) -> dict[str, Any]:
        """Classes and classifier; nothing before there are classes."""
        if self.classifier is None:
            return {}
        return {"classes": self.classes, "classifier": self.classifier.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`OptimisedPhase`."""
        if "classes" in state:
            self.learn_classes(state["classes"])
            if self.classifier is not None:
                self.classifier.load_state_dict(state["classifier"])
