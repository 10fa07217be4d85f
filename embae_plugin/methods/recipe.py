"""The adaptation to a user's unlabelled crops: what `embae adapt` runs.

The method is a row, and what it starts from is made first: by default batch norm statistics of
each camera in the whole network (``norm``), then pseudo-labels taught to it (``clusters-trunk``).
Each step may leave the model as it was, where it would do harm, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.methods.distill import DistillSettings, ImageDistillEngine
from embae_plugin.methods.registry import BASELINE, Row, chain
from embae_plugin.methods.row_models import RowModels
from embae_plugin.methods.run_settings import RECONSTRUCTION, AdaptSettings
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.stage_engine import History, StageEngine


@dataclass
class Adapted:
    """What came of an adaptation.

    Attributes:
        model: adapted.
        history: a row of averages for each epoch or round.
        summary: what was done, in words (``method``) and numbers.
        plain: a network for who names no camera, where the model knows cameras.
    """

    model: EmbAE
    history: History
    summary: dict[str, Any] = field(default_factory=dict)
    plain: EmbAE | None = None


def adapt(
    model: EmbAE,
    target: ImageRecords,
    store: FeatureStore,
    cfg: CfgNode,
    save_dir: Path,
    sources: ImageRecords | None = None,
    has_autoencoder: bool = True,
) -> Adapted:
    """Adapts a model to unlabelled crops; it stays as it is, and a copy changes.

    Args:
        model: an EmbAE model of any stage, or somebody else's network.
        target: crops; ``camids`` count cameras from 0. Identities, if any, are dropped first.
        store: the crops' images and features.
        cfg: a configuration: ``embae.adapt`` and the settings of the methods that it names;
            ``train.seed`` and ``use_gpu``.
        save_dir: for checkpoints; the same call goes on from what is there.
        sources: labelled crops that an autoencoder is learned on, if the model has none and the
            method needs one; None for the target itself.
        has_autoencoder: stage 2 has trained the model's.

    Raises:
        ValueError: a model that was adapted to cameras before, a network that the method can
            change nothing of, or impossible settings.
    """
    check_adaptable(model, cfg)
    guards, nothing = AdaptSettings.of(cfg), np.zeros(0, dtype=np.int64)
    name = guards.row(len(np.unique(target.camids)))
    if guards.method == RECONSTRUCTION:
        cfg = cfg.clone()
        cfg.embae.transfer.stop = guards.stop
    empty = ImageRecords((), nothing, nothing, nothing)
    data = ReIDData(["source"], sources or empty, "crops", target.unlabelled())
    given = {BASELINE: model}
    if has_autoencoder:
        given |= {row.name: model for row in chain(name, cfg) if row.name.startswith("autoencoder")}
    models = RowModels(cfg, data, store, save_dir, given, guards)
    adapted, plain = models.model_of(name), None
    if adapted.camera_parts == "trunk" and guards.plain:
        models.models[name] = adapted
        plain = models.model_of(Row(f"{name}-plain", name, method=ImageDistillEngine))
    outcomes = models.outcomes.values()
    summary: dict[str, Any] = {"method": ", then ".join(o.words for o in outcomes if o.words)}
    for outcome in outcomes:
        summary.update(outcome.numbers)
    history = [row for outcome in outcomes for row in outcome.history]
    return Adapted(adapted, history, summary, plain)


def check_adaptable(model: EmbAE, cfg: CfgNode) -> None:
    """Refuses a model that the method of a configuration can do nothing with.

    Raises:
        ValueError: says why, and what can be done instead.
    """
    if model.camera_parts:
        raise ValueError(
            "this model has been adapted to cameras already; start from the checkpoint that it "
            "was made from"
        )
    steps = _steps(cfg)
    for method, fixed in steps:
        settings = method.settings_class.of(cfg, **fixed)
        method.check_model(model, settings, alone=len(steps) == 1)


def _steps(cfg: CfgNode) -> list[tuple[type[StageEngine], Mapping[str, Any]]]:
    """The methods, each with what its row fixes, that adapt a model one after the other."""
    made_of = chain(AdaptSettings.of(cfg).row(), cfg)
    return [(row.method, row.fixed) for row in made_of if row.method and row.name != BASELINE]


def followed_keys(cfg: CfgNode) -> set[str]:
    """The keys that an adaptation with a configuration reads."""
    found = AdaptSettings.followed()
    for method, _ in _steps(cfg):
        found |= method.settings_class.followed()
    found |= DistillSettings.followed()
    return {key for key in found if key.startswith("embae.")}
