"""Stage 3: unsupervised adaptation to the target's cameras (paper 4.1).

Only the target's images and camera numbers are read. Its identities are not even here: the
records an engine is given carry none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.label_free import LAST
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase, merge_lone_groups
from embae_plugin.methods.stopping import Watch, check_rule
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """One of the paper's ways to adapt.

    Attributes:
        encoders: the f_nui of stage 2 that it starts from: common, dataset or camera.
        renewed: None keeps that f_nui; else new ones, ``common`` (one) or ``camera`` (one each).
        learn: what the main phase learns.
    """

    encoders: str
    renewed: str | None
    learn: tuple[str, ...]


VARIANTS = {
    "all": Variant("common", None, ("f_emb", "f_nui", "f_dec")),
    "fix": Variant("common", None, ("f_emb", "f_dec")),
    "new": Variant("common", "common", ("f_emb", "f_dec")),
    "dataset": Variant("dataset", "common", ("f_emb", "f_dec")),
    "cam": Variant("camera", "camera", ("f_emb", "f_dec")),
}


class ImageTransferEngine(StageEngine):
    """Adapts a pre-trained autoencoder to the target, without its labels.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model from stage 2, with the encoders that the variant starts from.
        variant: ``all``, ``fix``, ``new``, ``dataset`` or ``cam``.
        nuisance_epoch: epochs of the first step of new, dataset and cam.
        lr, final_lr: Adam's rate at the first and last epoch of each step.
        batch_size: images in a step.
        stop: the epoch that is kept: ``last``, or the one where a label-free measure is highest
            (:mod:`embae_plugin.evaluation.label_free`).
        bottleneck: what holds z_nui back while it learns; nothing, as in the paper, by default.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ValueError: an unknown variant or rule, or no target images.
    """

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        variant: str = "cam",
        *,
        nuisance_epoch: int = 15,
        lr: float = 1e-4,
        final_lr: float = 1e-4,
        nuisance_lr: float = 1e-3,
        batch_size: int = 256,
        stop: str = LAST,
        bottleneck: Bottleneck = OPEN,
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r}: must be one of {', '.join(VARIANTS)}")
        check_rule(stop)
        super().__init__(datamanager, model, use_gpu, seed, store)
        if self.data.target_train is None or not len(self.data.target_train):
            raise ValueError(
                "there are no target images to adapt to: name a target that is not a source"
            )
        if not list(model.f_emb.parameters()):
            raise ValueError(
                f"{model.trunk.name} has no embedding layer behind its pooled features, so the "
                "paper's adaptation has nothing to learn: choose norm or clusters-trunk (embae "
                "adapt: embae.adapt.method norm or trunk)"
            )
        self.variant, self.stage = variant, f"transfer-{variant}"
        self.nuisance_epoch = nuisance_epoch
        self.lr, self.nuisance_lr, self.final_lr = lr, nuisance_lr, final_lr
        self.batch_size, self.stop, self.bottleneck = batch_size, stop, bottleneck
        self._watch: Watch | None = None

    def learns_from(self) -> ImageRecords | None:
        """See :meth:`StageEngine.learns_from`."""
        return self.data.target_train

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        records = self.data.target_train
        return {
            **super().identity(),
            "batch_size": self.batch_size,
            "final_lr": self.final_lr,
            "lr": self.lr,
            "nuisance_lr": self.nuisance_lr,
            "nuisance_epoch": self.nuisance_epoch,
            "target": self.data.target,
            "target images": 0 if records is None else len(records),
            **({} if self.stop == LAST else {"stop": self.stop}),
            **self.bottleneck.settings(),
        }

    def watch(self, phase: str, epoch: int, every: bool) -> dict[str, float]:
        """See :class:`Watch`."""
        if self._watch is None or phase != self._watch.phase.name:
            return {}
        return self._watch.after_epoch(epoch, every)

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, or two where f_nui is renewed first."""
        variant, records = VARIANTS[self.variant], self.data.target_train
        if records is None:
            raise ValueError("there are no target images to adapt to")
        groups = merge_lone_groups(records.groups(variant.renewed or "common"))
        cameras = int(records.groups("camera").max()) + 1
        if variant.renewed == "camera" and cameras == 1:
            logger.warning("the target has one camera, so cam has one encoder, as new has")
        features = self.store.features(self.model, records, "target").features

        def phase(name: str, learn: tuple[str, ...], epochs: int, lr: float) -> ReconstructionPhase:
            return ReconstructionPhase(
                name, self.model, features, groups, learn, epochs, lr, self.final_lr,
                self.batch_size, self.seed, self.bottleneck,
            )  # fmt: skip

        main = phase("embedding", variant.learn, max_epoch, self.lr)
        main.watch = self._watch = Watch(main, features, records, self.stop, self.seed)
        if variant.renewed is None:
            return [main]
        self.model.reset_nuisance(int(groups.max()) + 1, seeded(self.seed, self.stage))
        if self.model.z_nui_dim == 0:  # no code, so nothing for new encoders to learn
            return [main]
        nuisance = phase("nuisance", ("f_nui",), self.nuisance_epoch, self.nuisance_lr)
        return [nuisance, main]
