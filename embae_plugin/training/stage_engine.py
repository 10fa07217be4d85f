"""What the engines of the three stages share: torchreid's face, EmbAE's loop.

An engine is made and run as torchreid's are, ``Engine(datamanager, model, …).run(max_epoch=…,
save_dir=…)``, and is a subclass of torchreid's. What a method has to say is its phases.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embae_plugin import distributed
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.evaluation import Scores
from embae_plugin.evaluation.score_table import SHOWN, score_row
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import FILES, Loop, LoopOptions, Phase
from embae_plugin.training.run_identity import state_fingerprint
from embae_plugin.training.scoring import score_model

logger = logging.getLogger(__name__)


class StageEngine(bridge.Engine):
    """Base of the EmbAE engines.

    Args:
        datamanager: torchreid's ``ImageDataManager``, or a :class:`ReIDData`.
        model: the EmbAE model, changed in place.
        use_gpu: use CUDA where there is one.
        seed: every random choice follows from it.
        store: the banks of images and features to read; made from the datamanager if None.
    """

    stage = ""
    trunk_learns = False  # then features serve one scoring only
    model_types: tuple[type[nn.Module], ...] = (EmbAE,)  # that the engine can work on
    scored_phases = ("embedding",)  # beginnings of the names of those that change the embedding

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        use_gpu: bool = True,
        seed: int = 1,
        store: FeatureStore | None = None,
    ) -> None:
        super().__init__(datamanager, use_gpu)
        if not isinstance(model, self.model_types):
            raise ValueError(
                f"{type(self).__name__} needs an EmbAE model (model.name embae_…), not "
                f"{type(model).__name__}"
            )
        self.data = ReIDData.from_datamanager(datamanager)
        self.seed = seed
        self.device = torch.device("cuda" if self.use_gpu else "cpu")
        self.model = model.to(self.device)
        self.register_model("model", self.model, None, None)
        self.store = store or self._store_of(datamanager)

    def _store_of(self, datamanager: Any) -> FeatureStore:
        if isinstance(datamanager, ReIDData):
            raise ValueError("an engine made from ReIDData needs a FeatureStore as well")
        settings = bridge.transforms_of(datamanager)
        return FeatureStore(
            settings["height"],
            settings["width"],
            settings["norm_mean"],
            settings["norm_std"],
            self.device,
        )

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """The work of this stage, one :class:`Phase` for each optimiser."""
        raise NotImplementedError

    def watch(self, phase: str, epoch: int, every: bool) -> dict[str, float]:
        """What is measured after an epoch without labels; ``every``: all that can be."""
        return {}

    def learns_from(self) -> ImageRecords | None:
        """The images that this stage learns from."""
        return self.data.source

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on from the other's checkpoint."""
        records = self.learns_from()
        return {
            **({} if records is None else {FILES: records.fingerprint()}),
            "seed": self.seed,
            "initial weights": state_fingerprint(self.model),
            **{f"model.{key}": value for key, value in self.model.spec().items()},
        }

    def run(
        self,
        save_dir: str | Path = "log",
        max_epoch: int = 0,
        test_only: bool = False,
        eval_freq: int = -1,
        normalize_feature: bool = True,
        ranks: Sequence[int] = (1, 5, 10, 20),
        save_interval: float = 30.0,
        identity: Mapping[str, Any] | None = None,
        tta: str = "flip",
        **unused: Any,
    ) -> list[dict[str, Any]]:
        """Trains this stage, going on from its checkpoint under ``save_dir`` if there is one.

        Args:
            save_dir: the checkpoint is ``save_dir/<stage>/last.pth``.
            max_epoch: epochs of the stage's main phase.
            test_only: only score the model on the target's query and gallery.
            eval_freq: score on the target's query and gallery after every so many epochs that
                change the embedding, for the log and the curves alone; -1 never.
            normalize_feature: score normalised embeddings (paper 5.1).
            ranks: of the CMC, printed.
            save_interval: seconds between checkpoints.
            identity: more settings to compare on resume.
            tta: test-time augmentation, ``none``, ``flip`` or ``ten_crop``.
            **unused: torchreid's other settings; refused where they would change the result.

        Returns:
            one row of averages for each epoch.
        """
        for name in ("rerank", "visrank", "use_metric_cuhk03"):
            if unused.get(name):
                raise ValueError(f"{name} is not done by {type(self).__name__}; use torchreid's")
        if test_only:
            self.test(normalize_feature=normalize_feature, tta=tta, ranks=ranks)
            return []

        def after_epoch(phase: str, epoch: int) -> dict[str, float]:
            due = eval_freq > 0 and not epoch % eval_freq
            if not (due and phase.startswith(self.scored_phases)):
                return self.watch(phase, epoch, False)
            row = score_row("", self.scores(normalize_feature, tta), ranks=(1,))
            shown = {name: row[name] for name in SHOWN if row.get(name) is not None}
            return {**shown, **self.watch(phase, epoch, True)}

        mine = {**self.identity(), "max_epoch": max_epoch, **(identity or {})}
        phases = self.phases(max_epoch)
        options = LoopOptions(
            checkpoint=Path(save_dir) / self.stage / "last.pth",
            identity=mine,
            save_interval=save_interval,
            writer=self.writer,
            after_epoch=after_epoch,
            extra={"spec": self.model.spec(), "input": self.store.input_spec().as_dict()},
        )
        history = Loop(self.stage, self.model, phases, options).run()
        distributed.copy_from_rank_zero(self.model)
        self.model.eval()
        self.model.requires_grad_(True)
        return history

    def test(
        self,
        dist_metric: str = "euclidean",
        normalize_feature: bool = True,
        tta: str = "flip",
        ranks: Sequence[int] = (1, 5, 10, 20),
        **unused: Any,
    ) -> float:
        """Scores the model on the target's query and gallery, logs it and returns rank-1.

        Cosine distance ranks as Euclidean distance between normalised embeddings does.
        """
        scores = self.scores(normalize_feature or dist_metric == "cosine", tta)
        for protocol, result in scores.items():
            cmc = ", ".join(f"rank-{rank} {result.rank(rank):.3f}" for rank in ranks)
            logger.info("%s %s: mAP %.3f, %s", self.data.target, protocol, result.mAP, cmc)
        return float(scores["market"].rank1)

    def scores(self, normalize: bool = True, tta: str = "flip") -> dict[str, Scores]:
        """Both protocols' scores on the target's query and gallery."""
        if self.data.query is None or self.data.gallery is None:
            raise ValueError("there is no labelled query and gallery to score the model on")
        return score_model(
            self.model, self.store, self.data.query, self.data.gallery, tta, normalize,
            keep=not self.trunk_learns,
        )  # fmt: skip
