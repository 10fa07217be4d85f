"""The recommended adaptation to unlabelled crops, step by step: what `embae adapt` runs.

1. Batch norm statistics of each camera, in the whole network; undone where they do not suit it
   (:mod:`statistics_guard`).
2. Pseudo-labels: clusters of crops taught as if they were people, to the trunk (method ``trunk``)
   or, in seconds, to f_emb alone (``heads``). Where the clusters do not look like people, as
   where nearly everyone was photographed once or twice, this step is left out, and said so.

``norm`` is the first step alone, ``reconstruction`` the paper's own adaptation (4.1), with its
stage 2 on labelled sources, or on the crops themselves, where the model brings no autoencoder.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from yacs.config import CfgNode

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.losses import Bottleneck
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.clusters import ImageClusterEngine, NotPeople
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.methods.past_the_paper import cluster_settings
from embae_plugin.methods.statistics_guard import FlipAgreement, Undo, agreement
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.models.camera_norm import has_batch_norm
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
    sources: ImageRecords | None = None,
    has_autoencoder: bool = True,
) -> Adapted:
    """Adapts a model to unlabelled crops, in place.

    Args:
        model: an EmbAE model of any stage, or somebody else's network.
        target: crops; ``camids`` count cameras from 0. Identities, if any, are dropped first.
        store: the crops' images and features.
        cfg: a configuration; ``embae.adapt``, ``embae.clusters``, ``embae.autoencoder`` and
            ``embae.transfer`` are read.
        save_dir: for checkpoints; the same call goes on from what is there.
        seed: every random choice follows from it.
        use_gpu: use CUDA where there is one.
        sources: labelled crops that ``reconstruction`` learns an autoencoder on, if the model has
            none; None for the target itself.
        has_autoencoder: stage 2 has trained the model's.

    Raises:
        ValueError: a model that was adapted to cameras before, a network that the method can
            change nothing of, or impossible settings.
    """
    method = cfg.embae.adapt.method
    check_adaptable(model, method)
    nothing = np.zeros(0, dtype=np.int64)
    data = ReIDData(
        ["source"], sources or ImageRecords((), nothing, nothing, nothing), "crops",
        target.unlabelled(),
    )  # fmt: skip
    common: dict[str, Any] = {"use_gpu": use_gpu, "seed": seed, "store": store}
    setting = _Setting(data, store, cfg, save_dir, common)
    if method == "reconstruction":
        return _reconstruct(model, setting, has_autoencoder)
    history, words = _statistics(model, target.unlabelled(), setting)
    if method == "norm":
        model.output = model.learned_output if model.camera_parts else model.output
        return Adapted(model, history, {"method": words})
    return _learn_clusters(model, setting, history, words)


def check_adaptable(model: EmbAE, method: str) -> None:
    """Refuses a model that a method can do nothing with.

    Raises:
        ValueError: says why, and what can be done instead.
    """
    if model.camera_parts:
        raise ValueError(
            "this model has been adapted to cameras already; start from the checkpoint that it "
            "was made from"
        )
    name = model.trunk.name
    if method in ("heads", "reconstruction") and not list(model.f_emb.parameters()):
        raise ValueError(
            f"{name} has no embedding layer behind its pooled features, which is all that "
            f"embae.adapt.method {method} changes: choose trunk or norm"
        )
    if method == "norm" and not any(has_batch_norm(part) for part in model.network()):
        raise ValueError(
            f"{name} has no batch norm, whose statistics are all that embae.adapt.method norm "
            "changes: choose trunk"
        )


def _statistics(
    model: EmbAE, target: ImageRecords, setting: _Setting
) -> tuple[list[dict[str, Any]], str]:
    """The first step, as far as the network has layers for it; what was done, in words."""
    kinds = normalisations(model)
    if not kinds.get("batch norm"):
        names = ", ".join(kinds) or "none"
        logger.warning("%s has no batch norm (its normalisation: %s), so there are no statistics "
                       "by camera", model.trunk.name, names)  # fmt: skip
        return [], f"no statistics by camera, since the network has no batch norm (but {names})"
    undo, before = Undo(model), agreement(model, setting.store, target)
    history = ImageNormEngine(setting.data, model, "trunk", **setting.common).run(
        setting.save_dir, 1
    )
    found = FlipAgreement(before, agreement(model, setting.store, target))
    history[-1].update(flip_agreement_before=found.before, flip_agreement_after=found.after)
    doubt = found.doubt(setting.cfg.embae.adapt.flip_fall)
    if doubt:
        logger.warning("statistics by camera are left out: %s", doubt)
        undo.apply(model)
        return history, f"no statistics by camera, because {doubt}"
    whole = "network" if model.learned_output == "z_id" else "trunk"
    words = f"batch norm statistics of each camera in the whole {whole}"
    others = [f"{count} layers of {name}" for name, count in kinds.items() if name != "batch norm"]
    if others:
        words += f" ({' and '.join(others)}, which each image normalises by itself, stay)"
    return history, words


def normalisations(model: EmbAE) -> dict[str, int]:
    """How many layers of each kind of normalisation the network has."""
    found: dict[str, int] = {}
    for part in model.network():
        for layer in part.modules():
            for name, kind in _KINDS.items():
                if isinstance(layer, kind):
                    found[name] = found.get(name, 0) + 1
    return found


_KINDS: dict[str, Any] = {
    "batch norm": _BatchNorm,
    "instance norm": _InstanceNorm,
    "layer norm": nn.LayerNorm,
    "group norm": nn.GroupNorm,
}


def _reconstruct(model: EmbAE, setting: _Setting, has_autoencoder: bool) -> Adapted:
    """Stage 3 of the paper; with one camera the variant of each camera is that of all."""
    node, cfg, target = setting.cfg.embae.transfer, setting.cfg, setting.data.target_train
    one = target is not None and len(np.unique(target.camids)) == 1
    variant = "new" if one and cfg.embae.adapt.variant == "cam" else cfg.embae.adapt.variant
    bottleneck, words = Bottleneck(**cfg.embae.nuisance), f"reconstruction ({variant})"
    history: list[dict[str, Any]] = []
    if not has_autoencoder:
        stage2 = cfg.embae.autoencoder
        first = ImageAutoencoderEngine(
            setting.data, model, VARIANTS[variant].encoders, lr=stage2.lr,
            final_lr=stage2.final_lr, batch_size=stage2.batch_size, bottleneck=bottleneck,
            **setting.common,
        )  # fmt: skip
        history += first.run(setting.save_dir, stage2.max_epoch)
        where = "labelled sources" if len(setting.data.source) else "the crops themselves"
        words += f", with an autoencoder learned on {where}"
    engine = ImageTransferEngine(
        setting.data, model, variant, nuisance_epoch=node.nuisance_epoch, lr=node.lr,
        final_lr=node.final_lr, nuisance_lr=node.nuisance_lr, batch_size=node.batch_size,
        stop=cfg.embae.adapt.stop, bottleneck=bottleneck, **setting.common,
    )  # fmt: skip
    history += engine.run(setting.save_dir, node.max_epoch)
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
    own = model.learned_output
    model.output = own if node.method == "trunk" or own == "z_id" else "joint"
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
        model.eval().requires_grad_(True).output = own
        return Adapted(model, history, {"method": words, "left_out": str(why_not)})
    last = [row for row in history if "clusters" in row][-1]
    numbers: dict[str, Any] = {key: last[key] for key in ("kept", "clusters", "cameras")}
    whole = "the network" if own == "z_id" else "the trunk"
    learned = "f_emb" if node.method == "heads" else whole
    words = f"{words}, then {rounds} rounds of pseudo-labels taught to {learned}"
    return Adapted(model, history, {"method": words, **numbers})
