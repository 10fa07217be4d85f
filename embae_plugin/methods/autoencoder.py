"""Stage 2: the autoencoder on the labelled sources, with trunk and f_emb frozen (paper 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embae_plugin.data.records import ImageRecords
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase, merge_lone_groups
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Phase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine

ENCODERS = ("common", "dataset", "camera")


class ImageAutoencoderEngine(StageEngine):
    """Learns f_nui and f_dec by reconstructing the sources' trunk features.

    Without sources it learns on the target's, which needs no labels either.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model whose trunk and f_emb stage 1 has trained.
        encoders: ``common`` (one f_nui), ``dataset`` (one for each dataset) or ``camera`` (one
            for each camera of each dataset).
        lr, final_lr: Adam's rate at the first and last epoch.
        batch_size: images in a step, shared evenly by the encoders.
        bottleneck: what holds z_nui back while it learns; nothing, as in the paper, by default.
        use_gpu, seed, store: see :class:`StageEngine`.
    """

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        encoders: str = "common",
        *,
        lr: float = 1e-3,
        final_lr: float = 1e-5,
        batch_size: int = 256,
        bottleneck: Bottleneck = OPEN,
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        if encoders not in ENCODERS:
            raise ValueError(f"encoders {encoders!r}: must be one of {', '.join(ENCODERS)}")
        super().__init__(datamanager, model, use_gpu, seed, store)
        self.encoders, self.stage = encoders, f"autoencoder-{encoders}"
        self.lr, self.final_lr, self.batch_size = lr, final_lr, batch_size
        self.bottleneck = bottleneck

    def learns_from(self) -> ImageRecords:
        """The sources; the target, without its identities, where there are none."""
        if len(self.data.source) or self.data.target_train is None:
            return self.data.source
        return self.data.target_train

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {
            **super().identity(),
            "lr": self.lr,
            "final_lr": self.final_lr,
            "batch_size": self.batch_size,
            "images": len(self.learns_from()),
            **self.bottleneck.settings(),
        }

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase, which learns fresh f_nui and f_dec."""
        records = self.learns_from()
        groups = merge_lone_groups(records.groups(self.encoders))
        generator = seeded(self.seed, self.stage)
        self.model.reset_nuisance(int(groups.max()) + 1, generator)
        self.model.f_dec.reset_parameters(generator)
        features = self.store.features(self.model, records, "source")
        return [
            ReconstructionPhase(
                self.encoders, self.model, features.features, groups, ("f_nui", "f_dec"),
                max_epoch, self.lr, self.final_lr, self.batch_size, self.seed, self.bottleneck,
            )
        ]  # fmt: skip
