"""Stage 3: unsupervised adaptation to the target's cameras (paper 4.1).

Only the target's images and camera numbers are read. Its identities are not even here: the
records an engine is given carry none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.label_free import LAST, RULES
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase, merge_lone_groups
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.methods.stopping import Watch
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import Outcome, StageEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """One of the paper's ways to adapt.

    Attributes:
        encoders: the f_nui of stage 2 that it starts from: common, dataset or camera.
        renewed: None keeps that f_nui; else new ones, ``common`` (one) or ``camera`` (one each).
        learn: what the main phase learns.
        help: the same in words.
    """

    encoders: str
    renewed: str | None
    learn: tuple[str, ...]
    help: str


MAIN = ("f_emb", "f_dec")
VARIANTS = {
    "all": Variant("common", None, ("f_emb", "f_nui", "f_dec"), "embedding, nuisance encoder and "
                   "decoder together"),
    "fix": Variant("common", None, MAIN, "embedding and decoder; the nuisance encoder stays"),
    "new": Variant("common", "common", MAIN, "first a new nuisance encoder, then embedding and "
                   "decoder"),
    "dataset": Variant("dataset", "common", MAIN, "as new, pre-trained with an encoder for each "
                       "data set"),
    "cam": Variant("camera", "camera", MAIN, "as new, with a nuisance encoder for each camera"),
}


@dataclass(frozen=True)
class TransferSettings(Settings, node="transfer"):
    """Stage 3."""

    nuisance_epoch: int = setting(15, "Epochs of step 1 of new, dataset and cam: a new f_nui "
                                  "alone.", least=0)
    nuisance_lr: float = setting(1e-3, "Adam's learning rate in step 1.", above=0)
    max_epoch: int = setting(15, "Epochs of the step that learns f_emb.", least=0, compared=False)
    lr: float = setting(1e-4, "Adam's learning rate at its first epoch.", above=0)
    # constant, so that the curve of a longer run shows any shorter one
    final_lr: float = setting(1e-4, "… and at its last.", above=0)
    batch_size: int = setting(256, "Images in a step.", above=0)
    stop: str = setting(LAST, "The epoch that is kept: the last, or the one at which a measure "
                        "that reads no label is highest.", choices=RULES)
    variant: str = setting("cam", "The paper's variant.", key="", choices=tuple(VARIANTS))
    bottleneck: Bottleneck = setting(OPEN, "What holds z_nui back while it learns.")


def _rows(prefix: str, names: Sequence[str], help: str, **more: Any) -> list[Row]:
    return [
        Row(f"{prefix}{name}", f"autoencoder-{VARIANTS[name].encoders}",
            f"{help}: {VARIANTS[name].help}", fixed={"variant": name},
            stage=f"{prefix.replace('+', '-')}transfer-{name}", **more)
        for name in names
    ]


@register_method(
    *_rows("", list(VARIANTS), "the paper"),
    *_rows("norm+", ["all", "fix", "new", "cam"], "the paper, after norm", trunk_from="norm"),
)
class ImageTransferEngine(StageEngine):
    """Adapts a pre-trained autoencoder to the target, without its labels.

    The model is one of stage 2, with the encoders that the variant starts from. ``variant`` may be
    given as third argument; see :class:`TransferSettings` and :class:`StageEngine`.

    Raises:
        ValueError: no target images, or a network without an embedding layer.
    """

    settings_class = TransferSettings
    selector, gate = "variant", "transfer"
    scored_phases = ("embedding",)

    def __init__(self, datamanager: Any, model: EmbAE, part: str = "", **given: Any) -> None:
        super().__init__(datamanager, model, part, **given)
        self.learns_from()
        self.check_model(self.model, self.settings, True)
        self._watch: Watch | None = None

    @classmethod
    def stage_of(cls, settings: TransferSettings) -> str:
        """See :meth:`StageEngine.stage_of`."""
        return f"transfer-{settings.variant}"

    @classmethod
    def check_model(cls, model: EmbAE, settings: Any, alone: bool) -> None:
        """See :meth:`StageEngine.check_model`."""
        if not list(model.f_emb.parameters()):
            raise ValueError(
                f"{model.trunk.name} has no embedding layer behind its pooled features, so the "
                "paper's adaptation has nothing to learn: choose norm or clusters-trunk"
            )

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def words(self) -> str:
        """See :meth:`StageEngine.words`."""
        return f"reconstruction ({self.settings.variant})"

    def adapt(self, save_dir: str | Path, guards: Any, **options: Any) -> Outcome:
        """:meth:`run`, and which epoch is kept."""
        outcome = super().adapt(save_dir, guards, **options)
        last = outcome.history[-1] if outcome.history else {}
        if "kept_epoch" in last:
            kept = int(last["kept_epoch"])
            outcome.words += f", of whose {self.epochs()} epochs number {kept} is kept"
            outcome.numbers = {"kept_epoch": kept, "stop": self.settings.stop}
        return outcome

    def watch(self, phase: str, epoch: int, every: bool) -> dict[str, float]:
        """See :class:`Watch`."""
        if self._watch is None or phase != self._watch.phase.name:
            return {}
        return self._watch.after_epoch(epoch, every)

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, or two where f_nui is renewed first."""
        node, records = self.settings, self.target
        variant = VARIANTS[node.variant]
        groups = merge_lone_groups(records.groups(variant.renewed or "common"))
        cameras = int(records.groups("camera").max()) + 1
        if variant.renewed == "camera" and cameras == 1:
            logger.warning("the target has one camera, so cam has one encoder, as new has")
        features = self.store.features(self.model, records, "target")

        def phase(name: str, learn: tuple[str, ...], epochs: int, lr: float) -> ReconstructionPhase:
            return ReconstructionPhase(
                self, name, features, groups, learn, epochs, lr, node.final_lr, node.batch_size,
                node.bottleneck,
            )

        main = phase("embedding", variant.learn, max_epoch, node.lr)
        main.watch = self._watch = Watch(main, features, records, node.stop, self.seed)
        if variant.renewed is None:
            return [main]
        self.model.reset_nuisance(int(groups.max()) + 1, seeded(self.seed, self.stage))
        if self.model.z_nui_dim == 0:  # no code, so nothing for new encoders to learn
            return [main]
        nuisance = phase("nuisance", ("f_nui",), node.nuisance_epoch, node.nuisance_lr)
        return [nuisance, main]
