"""Adaptation by statistics alone: batch norm re-estimated for each of the target's cameras."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from embae_plugin.data.records import ImageRecords
from embae_plugin.methods.camera_statistics import camera_count, estimate
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.methods.statistics_guard import FlipAgreement, Undo, agreement
from embae_plugin.models.camera_norm import has_batch_norm, knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import OneStep, Phase
from embae_plugin.training.stage_engine import Outcome, StageEngine

logger = logging.getLogger(__name__)

KINDS: dict[str, Any] = {
    "batch norm": _BatchNorm,
    "instance norm": _InstanceNorm,
    "layer norm": nn.LayerNorm,
    "group norm": nn.GroupNorm,
}


@dataclass(frozen=True)
class NormSettings(Settings):
    """Statistics by camera."""

    parts: str = setting("trunk", "The trunk, or f_emb on cached features.", key="",
                         choices=("trunk", "heads"))


@register_method(
    Row("norm-heads", help="batch norm statistics of each camera in f_emb",
        fixed={"parts": "heads"}, adapts=False),
    Row("norm", help="batch norm statistics of each camera in the whole network",
        fixed={"parts": "trunk"}, stage="norm-trunk"),
    Row("norm-h", "norm", "the same model by its trunk features h", show="h", adapts=False),
    Row("norm-unnamed", "norm", "the same model, told no camera", show="unnamed", adapts=False),
)
class ImageNormEngine(StageEngine):
    """Gives a model each target camera's own batch norm statistics; no weight changes.

    ``parts`` (``trunk``, or ``heads``: f_emb alone, which takes moments on cached features) may be
    given as third argument; see :class:`StageEngine`.

    Raises:
        ValueError: no target images, or other parts.
    """

    settings_class = NormSettings
    selector = "parts"
    scored_phases = ()

    def __init__(self, datamanager: Any, model: EmbAE, part: str = "", **given: Any) -> None:
        super().__init__(datamanager, model, part, **given)
        self.learns_from()

    @classmethod
    def stage_of(cls, settings: NormSettings) -> str:
        """See :meth:`StageEngine.stage_of`."""
        return f"norm-{settings.parts}"

    @classmethod
    def check_model(cls, model: EmbAE, settings: Any, alone: bool) -> None:
        """See :meth:`StageEngine.check_model`."""
        if alone and not any(has_batch_norm(part) for part in model.network()):
            raise ValueError(
                f"{model.trunk.name} has no batch norm, whose statistics are all that norm "
                "changes: choose clusters-trunk"
            )

    def epochs(self) -> int:
        """One."""
        return 1

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.target

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One step."""
        return [StatisticsPhase(self, self.settings.parts)]

    def adapt(self, save_dir: str | Path, guards: Any, **options: Any) -> Outcome:
        """:meth:`run`, undone where it drives a crop and its mirror image apart.

        Of a network without batch norm nothing is changed. Afterwards the model returns what
        learning on images compares (:attr:`EmbAE.learned_output`).
        """
        model, kinds = self.model, normalisations(self.model)
        if not kinds["batch norm"]:
            names = ", ".join(kinds) or "none"
            logger.warning("%s has no batch norm (its normalisation: %s), so there are no "
                           "statistics by camera", model.trunk.name, names)
            return Outcome([], "no statistics by camera, since the network has no batch norm "
                           f"(but {names})")
        undo, before = Undo(model), agreement(model, self.store, self.target)
        history = self.run(save_dir, **options)
        found = FlipAgreement(before, agreement(model, self.store, self.target))
        history[-1].update(flip_agreement_before=found.before, flip_agreement_after=found.after)
        doubt = found.doubt(guards.flip_fall)
        if doubt:
            logger.warning("statistics by camera are left out: %s", doubt)
            undo.apply(model)
            return Outcome(history, f"no statistics by camera, because {doubt}")
        model.output = model.learned_output
        whole = "network" if model.learned_output == "z_id" else "trunk"
        words = f"batch norm statistics of each camera in the whole {whole}"
        others = [f"{count} layers of {name}" for name, count in kinds.items()
                  if name != "batch norm"]
        if others:
            words += f" ({' and '.join(others)}, which each image normalises by itself, stay)"
        return Outcome(history, words)


def normalisations(model: EmbAE) -> Counter[str]:
    """How many layers of each kind of normalisation the network has."""
    layers = [layer for part in model.network() for layer in part.modules()]
    return Counter(
        name for layer in layers for name, kind in KINDS.items() if isinstance(layer, kind)
    )


class StatisticsPhase(OneStep):
    """One step: statistics by camera, of the weights of the moment.

    Args:
        engine: whose model and target are used.
        parts: what to give statistics; "" estimates those the trunk has again, if it has any.
    """

    def __init__(self, engine: StageEngine, parts: str = "") -> None:
        self.engine, self.parts = engine, parts
        target, model = engine.target, engine.model
        if parts and not model.camera_parts:
            camera_count(target.camids)
            model.learn_cameras(parts, target.camera_table())

    def work(self) -> None:
        """Estimates them."""
        engine = self.engine
        parts = self.parts or ("trunk" if knows_cameras(engine.model.trunk) else "")
        if parts:
            estimate(engine.model, engine.target, engine.store, parts, engine.seed)
