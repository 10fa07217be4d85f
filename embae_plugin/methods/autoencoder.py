"""Stage 2: the autoencoder on the labelled sources, with trunk and f_emb frozen (paper 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embae_plugin.data.records import ImageRecords
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase, merge_lone_groups
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine

ENCODERS = ("common", "dataset", "camera")


@dataclass(frozen=True)
class AutoencoderSettings(Settings, node="autoencoder"):
    """Stage 2."""

    max_epoch: int = setting(60, "Epochs.", least=0, compared=False)
    lr: float = setting(1e-3, "Adam's learning rate at the first epoch.", above=0)
    final_lr: float = setting(1e-5, "… and at the last.", above=0)
    batch_size: int = setting(256, "Images in a step, shared evenly by the encoders.", above=0)
    encoders: str = setting("common", "One f_nui for all, for each dataset or each camera.", key="",
                            choices=ENCODERS)
    bottleneck: Bottleneck = setting(OPEN, "What holds z_nui back while it learns.")


@register_method(
    *(Row(f"autoencoder-{encoders}", fixed={"encoders": encoders}, adapts=False, scored=False)
      for encoders in ENCODERS)
)
class ImageAutoencoderEngine(StageEngine):
    """Learns f_nui and f_dec by reconstructing the sources' trunk features.

    Without sources it learns on the target's, which needs no labels either. ``encoders`` may be
    given as third argument; see :class:`AutoencoderSettings` and :class:`StageEngine`.
    """

    settings_class = AutoencoderSettings
    selector, gate = "encoders", "autoencoder"
    scored_phases = ()

    @classmethod
    def stage_of(cls, settings: AutoencoderSettings) -> str:
        """See :meth:`StageEngine.stage_of`."""
        return f"autoencoder-{settings.encoders}"

    def learns_from(self) -> ImageRecords:
        """The sources; the target, without its identities, where there are none."""
        if len(self.data.source) or self.data.target_train is None:
            return self.data.source
        return self.data.target_train

    def words(self) -> str:
        """See :meth:`StageEngine.words`."""
        where = "labelled sources" if len(self.data.source) else "the crops themselves"
        return f"an autoencoder learned on {where}"

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, which learns fresh f_nui and f_dec."""
        node, records = self.settings, self.learns_from()
        groups = merge_lone_groups(records.groups(node.encoders))
        generator = seeded(self.seed, self.stage)
        self.model.reset_nuisance(int(groups.max()) + 1, generator)
        self.model.f_dec.reset_parameters(generator)
        features = self.store.features(self.model, records, "source")
        return [
            ReconstructionPhase(
                self, node.encoders, features, groups, ("f_nui", "f_dec"), max_epoch, node.lr,
                node.final_lr, node.batch_size, node.bottleneck,
            )
        ]
