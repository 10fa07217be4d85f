"""The recommended adaptation to unlabelled crops, step by step: what `embae adapt` runs.

1. Batch norm statistics of each camera, in the whole trunk.
2. Pseudo-labels: clusters of crops taught as if they were people, to the trunk (method ``trunk``)
   or, in seconds, to f_emb alone (``heads``). Where the clusters do not look like people, as
   where nearly everyone was photographed once or twice, this step is left out, and said so.

``norm`` is the first step alone, ``reconstruction`` the paper's own adaptation (4.1).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.engine.beyond import cluster_settings
from embae_plugin.engine.clusters import ImageClusterEngine, NotPeople
from embae_plugin.engine.norm import ImageNormEngine
from embae_plugin.engine.transfer import ImageTransferEngine
from embae_plugin.losses import Bottleneck
from embae_plugin.models.embae import EmbAE

logger = logging.getLogger(__name__)

@dataclass
class Adapted:
    """What came of an adaptation.

    Attributes:
        model: adapted.
        history: a row of averages for each epoch or round.
        summary: what was done, in words (``method``) and numbers.
    """

    model: EmbAE
    history: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Setting:
    """What every step needs."""

    data: ReIDData
    store: FeatureStore
    cfg: CfgNode
    save_dir: Path
    common: dict[str, Any]


def adapt(
    model: EmbAE,
    target: ImageRecords,
    store: FeatureStore,
    cfg: CfgNode,
    save_dir: Path,
    seed: int = 1,
    use_gpu: bool = True,
) -> Adapted:
    """Adapts a model to unlabelled crops, in place.

    Args:
        model: from stage 1, or from stage 2 or 3 for the method ``reconstruction``.
        target: crops; ``camids`` count cameras from 0. Identities, if any, are dropped first.
        store: the crops' images and features.
        cfg: a configuration; ``embae.adapt``, ``embae.clusters`` and ``embae.transfer`` are read.
        save_dir: for checkpoints; the same call goes on from what is there.
        seed: every random choice follows from it.
        use_gpu: use CUDA where there is one.

    Raises:
        ValueError: a model that was adapted to cameras before, or impossible settings.
    """
    if model.camera_parts:
        raise ValueError(
            "this model has been adapted to cameras already; start from the checkpoint that it "
            "was made from"
        )
    nothing = np.zeros(0, dtype=np.int64)
    data = ReIDData(
        ["source"], ImageRecords((), nothing, nothing, nothing), "crops", target.unlabelled()
    )
    common: dict[str, Any] = {"use_gpu": use_gpu, "seed": seed, "store": store}
    setting = _Setting(data, store, cfg, save_dir, common)
    if cfg.embae.adapt.method == "reconstruction":
        return _reconstruct(model, target, setting)
    history = ImageNormEngine(data, model, "trunk", **common).run(save_dir, 1)
    words = "batch norm statistics of each camera in the whole trunk"
    if cfg.embae.adapt.method == "norm":
        model.output = "h"
        return Adapted(model, history, {"method": words})
    return _learn_clusters(model, setting, history, words)


def _reconstruct(model: EmbAE, target: ImageRecords, setting: _Setting) -> Adapted:
    """Stage 3 of the paper; with one camera the variant of each camera is that of all."""
    node, cfg = setting.cfg.embae.transfer, setting.cfg
    one = len(np.unique(target.camids)) == 1
    variant = "new" if one and cfg.embae.adapt.variant == "cam" else cfg.embae.adapt.variant
    engine = ImageTransferEngine(
        setting.data, model, variant, nuisance_epoch=node.nuisance_epoch, lr=node.lr,
        final_lr=node.final_lr, nuisance_lr=node.nuisance_lr, batch_size=node.batch_size,
        stop=cfg.embae.adapt.stop, bottleneck=Bottleneck(**cfg.embae.nuisance), **setting.common,
    )  # fmt: skip
    history = engine.run(setting.save_dir, node.max_epoch)
    words = f"reconstruction ({variant})"
    if not history or "kept_epoch" not in history[-1]:
        return Adapted(model, history, {"method": words})
    kept = int(history[-1]["kept_epoch"])
    words = f"{words}, of whose {node.max_epoch} epochs number {kept} is kept"
    rule = cfg.embae.adapt.stop
    return Adapted(model, history, {"method": words, "kept_epoch": kept, "stop": rule})


def _learn_clusters(
    model: EmbAE, setting: _Setting, history: list[dict[str, Any]], words: str
) -> Adapted:
    """The second step, if the crops are such that it can help."""
    node, clusters = setting.cfg.embae.adapt, setting.cfg.embae.clusters
    model.output = "h" if node.method == "trunk" else "joint"
    engine = ImageClusterEngine(
        setting.data, model, node.method, precision=setting.cfg.embae.embedding.precision,
        doubts=lambda found: found.doubts(node.least_kept, node.largest_cluster),
        **cluster_settings(clusters), **setting.common,
    )  # fmt: skip
    rounds = clusters.rounds if node.method == "heads" else clusters.trunk_rounds
    try:
        history = history + engine.run(setting.save_dir, rounds)
    except NotPeople as why_not:
        logger.warning("pseudo-labels are left out: %s", why_not)
        model.eval().requires_grad_(True).output = "h"
        return Adapted(model, history, {"method": words, "left_out": str(why_not)})
    last = history[-1] if node.method == "heads" else history[-2]
    numbers: dict[str, Any] = {key: last[key] for key in ("kept", "clusters", "cameras")}
    learned = "f_emb" if node.method == "heads" else "the trunk"
    words = f"{words}, then {rounds} rounds of pseudo-labels taught to {learned}"
    return Adapted(model, history, {"method": words, **numbers})
