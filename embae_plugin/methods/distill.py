"""A plain network that embeds as a model with statistics by camera does, for who names no camera.

Trackers load one file of ordinary weights and tell no cameras apart. A copy with ordinary batch
norm, of all cameras together, learns to give each crop the embedding that the model gives it with
its camera named, and so to be as blind to cameras without being told of them: what a batch's
embeddings are, and how similar each two of them are (Park et al., CVPR 2019). No label is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.data.augment import Augmentation
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Batch, OptimisedPhase, Phase
from embae_plugin.training.run_identity import state_fingerprint
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import PRECISIONS

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from embae_plugin.data.records import ReIDData


@dataclass(frozen=True)
class DistillSettings(Settings, node="distill"):
    """A plain network from a model with statistics by camera."""

    max_epoch: int = setting(3, "Passes over the crops.", least=0, compared=False)
    lr: float = setting(3e-4, "Adam's learning rate at the first pass …", above=0)
    final_lr: float = setting(3e-5, "… and at the last.", above=0)
    batch_size: int = setting(72, "Crops in a step, of any cameras.", least=2)
    similarity_weight: float = setting(5.0, "Weight of the similarities within a batch, beside "
                                       "that of the embeddings themselves, 1.", least=0)
    precision: str = setting("auto", "Of the network.", key="embae.embedding.precision",
                             choices=PRECISIONS)


@register_method(
    Row("norm-plain", "norm", "norm distilled into a network that is told no camera"),
    Row("clusters-trunk-plain", "clusters-trunk", "clusters-trunk distilled into a network that "
        "is told no camera"),
)
class ImageDistillEngine(StageEngine):
    """Teaches a plain network the embeddings of one that knows cameras.

    Args:
        datamanager, model, **given: see :class:`StageEngine` and :class:`DistillSettings`;
            ``model`` is the network that learns.
        teacher: the model whose embeddings are learned, of the same trunk.
    """

    settings_class = DistillSettings
    stage, trunk_learns, scored_phases = "plain", True, ("plain",)

    def __init__(
        self, datamanager: Any, model: EmbAE, part: str = "", *, teacher: EmbAE, **given: Any
    ) -> None:
        super().__init__(datamanager, model, part, **given)
        self.teacher = teacher.to(self.device).eval()
        self.model.output = self.model.learned_output

    @classmethod
    def prepared(cls, model: EmbAE) -> EmbAE:
        """Ordinary batch norm, with what all cameras have in common."""
        return model.of_camera(-1)

    @classmethod
    def inputs(cls, cfg: CfgNode, data: ReIDData, model: EmbAE, start: EmbAE) -> dict[str, Any]:
        """The model that is started from teaches."""
        return {"teacher": start}

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {**super().identity(), "teacher": state_fingerprint(self.teacher)}

    def words(self) -> str:
        """See :meth:`StageEngine.words`."""
        return "distilled into a network that is told no camera"

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase."""
        return [DistillPhase(self, "plain", max_epoch, self.target.paths)]


class DistillPhase(OptimisedPhase):
    """1 − cosine to the teacher's embedding, and the squared error of the batch's similarities."""

    engine: ImageDistillEngine
    shared = True

    def start(self) -> None:
        """Opens the images and embeds them by the teacher."""
        engine, node = self.engine, self.engine.settings
        self.lr, self.final_lr = node.lr, node.final_lr
        self.size = min(node.batch_size, len(self.paths))
        self.steps = len(self.paths) // self.size
        output, engine.teacher.output = engine.teacher.output, engine.teacher.learned_output
        try:
            self.wanted = embed_records(engine.teacher, engine.store, engine.target, "target")
        finally:
            engine.teacher.output = output
        self.bank = engine.store.images(engine.target, "target")
        self.augment = Augmentation(("random_flip",), engine.store.mean, engine.store.std)
        engine.model.to(memory_format=torch.channels_last)
        super().start()

    def parts(self) -> list[nn.Module]:
        """See :class:`OptimisedPhase`."""
        model: EmbAE = self.engine.model
        return model.network()

    def batches(self, epoch: int) -> torch.Tensor:
        """Each crop once, in random order, less a short last batch."""
        generator = seeded(self.engine.seed, self.engine.stage, epoch)
        order = torch.randperm(len(self.paths), generator=generator)
        return order[: self.steps * self.size].view(self.steps, self.size)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """See :class:`DistillPhase`."""
        engine = self.engine
        share = self.share(len(batch.rows))
        images = share.of(self.augment(self.bank.batch(batch.rows), batch.generator))
        with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            mine = F.normalize(engine.model.network_features(images, None), dim=1)
        found = share.gather(mine)
        wanted = self.wanted[batch.rows.to(self.wanted.device)]
        apart = (1 - (found * wanted).sum(1)).mean()
        similar = (found @ found.T - wanted @ wanted.T).square().mean()
        loss = apart + engine.settings.similarity_weight * similar
        return {"loss": loss, "distance": apart}
