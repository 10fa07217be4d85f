"""Refuses configurations that cannot work, before anything is loaded."""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from embae_plugin.settings.tree import (
    ADAPT_METHODS,
    COMPARISONS,
    STAGES,
    STOP_RULES,
    VARIANTS,
    flatten,
)

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "radam")
SCHEDULERS = ("exponential", "single_step", "multi_step", "cosine")
MAX_RANK = 50  # the length of the CMC

_CHOICES: dict[str, Sequence[str]] = {
    "embae.stages": STAGES,
    "embae.variants": (*VARIANTS, *COMPARISONS),
    "embae.pul.base": ("embedding", "softmax"),
    "embae.adapt.method": ADAPT_METHODS,
    "embae.adapt.variant": VARIANTS[1:],
    "embae.adapt.stop": STOP_RULES,
    "embae.transfer.stop": STOP_RULES,
    "embae.head_order": ("relu_bn", "bn_relu"),
    "embae.test.tta": ("none", "flip", "ten_crop"),
    "embae.test.protocols": ("market", "nd"),
    "embae.embedding.dataset_choice": ("proportional", "uniform"),
    "embae.embedding.precision": ("auto", "float32", "bf16"),
    "embae.embedding.step": ("auto", "eager", "graph"),
}
_CHOICES_OF_EMBAE: dict[str, Sequence[str]] = {
    "data.transforms": TRANSFORMS,
    "train.optim": OPTIMIZERS,
    "train.lr_scheduler": SCHEDULERS,
    "test.dist_metric": ("euclidean", "cosine"),
}
_POSITIVE = (
    "data.height",
    "data.width",
    "train.batch_size",
    "train.lr",
    "test.batch_size",
    "sampler.num_instances",
    "embae.z_id_dim",
    "embae.hidden_dim",
    "embae.embedding.final_lr",
    "embae.autoencoder.batch_size",
    "embae.autoencoder.lr",
    "embae.autoencoder.final_lr",
    "embae.transfer.batch_size",
    "embae.transfer.lr",
    "embae.transfer.nuisance_lr",
    "embae.transfer.final_lr",
    "embae.adversarial.lr",
    "embae.adversarial.final_lr",
    "embae.adversarial.prior_std",
    "embae.pul.lr",
    "embae.clusters.rounds",
    "embae.clusters.trunk_rounds",
    "embae.clusters.eps",
    "embae.clusters.min_samples",
    "embae.clusters.k1",
    "embae.clusters.k2",
    "embae.clusters.temperature",
    "embae.clusters.lr",
    "embae.clusters.final_lr",
    "embae.clusters.num_instances",
)
_NOT_NEGATIVE = (
    "train.max_epoch",
    "train.weight_decay",
    "embae.autoencoder.max_epoch",
    "embae.transfer.max_epoch",
    "embae.transfer.nuisance_epoch",
    "embae.embedding.constant_epochs",
    "embae.save_interval",
    "embae.adversarial.max_epoch",
    "embae.z_nui_dim",
    "embae.nuisance.noise",
    "embae.nuisance.dropout",
    "embae.nuisance.variational",
    "embae.nuisance.decorrelation",
    "embae.adversarial.triplet_weight",
    "embae.adversarial.reconstruction_weight",
    "embae.adversarial.adversarial_weight",
    "embae.pul.baseline_epoch",
    "embae.pul.rounds",
    "embae.pul.max_epoch",
    "embae.pul.momentum",
    "embae.clusters.constant_rounds",
    "embae.clusters.weight_decay",
    "embae.adapt.least_kept",
    "embae.adapt.flip_fall",
)
# torchreid's settings that would change a result and that loss.name embae does not follow.
_NOT_OF_EMBAE: dict[str, Any] = {
    "test.rerank": False,
    "test.visrank": False,
    "cuhk03.use_metric_cuhk03": False,
    "data.k_tfm": 1,
    "train.start_epoch": 0,
    "train.fixbase_epoch": 0,
    "model.resume": "",
}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_choices(flat: dict[str, Any], choices: dict[str, Sequence[str]]) -> None:
    for key, allowed in choices.items():
        for value in flat[key] if isinstance(flat[key], list) else [flat[key]]:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            known = value.lower() if key == "data.transforms" and isinstance(value, str) else value
            _check(known in allowed, f"{key}: {value!r} is not one of {', '.join(allowed)}{hint}")


def check_config(cfg: CfgNode) -> None:
    """Refuses what cannot work before anything is loaded.

    Raises:
        ValueError: names the key, its value and what would be right.
    """
    flat = flatten(cfg)
    _check_choices(flat, _CHOICES)
    for key in _POSITIVE:
        _check(0 < flat[key] < math.inf, f"{key} is {flat[key]}; it must be greater than 0")
    for key in _NOT_NEGATIVE:
        _check(0 <= flat[key] < math.inf, f"{key} is {flat[key]}; it must not be negative")
    share = flat["embae.image_memory_share"]
    _check(0 < share <= 1, f"embae.image_memory_share is {share}; it is a share, 0 to 1")
    _check_normalisation(
        flat["data.norm_mean"], flat["data.norm_std"], empty=cfg.loss.name == "embae"
    )
    if cfg.loss.name == "embae":
        _check_choices(flat, _CHOICES_OF_EMBAE)
        _check_batch(flat["train.batch_size"], flat["sampler.num_instances"])
        _check_scores(flat["test.ranks"], flat["embae.test.protocols"])
        _check_method(cfg, flat)
        _check_scikit_learn(cfg.embae.variants)
        _check_pul(cfg.embae.pul)
        _check_nuisance(cfg.embae.nuisance, cfg.embae.z_nui_dim)
        _check_clusters(cfg.embae.clusters)
        share = cfg.embae.adapt.largest_cluster
        _check(0 < share <= 1, f"embae.adapt.largest_cluster is {share}; it is a share, 0 to 1")
        _check_datasets(list(cfg.data.sources), list(cfg.data.targets), list(cfg.embae.stages))


def _check_normalisation(mean: list[Any], std: list[Any], empty: bool) -> None:
    """``empty``: either may be left to the trunk's weights, by an empty list."""
    for key, values in (("data.norm_mean", mean), ("data.norm_std", std)):
        numbers = all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
        _check((len(values) == 3 and numbers) or (empty and not values),
               f"{key} is {values}; it must be 3 numbers (R, G, B)")  # fmt: skip
    _check(min(std, default=1) > 0, f"data.norm_std is {std}; each must be greater than 0")


def _check_batch(batch: int, instances: int) -> None:
    below = batch - batch % instances
    fitting = f"{below} or {below + instances}" if below else str(instances)
    _check(
        batch % instances == 0,
        f"train.batch_size is {batch}, which sampler.num_instances (K = {instances}) does not "
        f"divide; {fitting} would do",
    )


def _check_scores(ranks: list[Any], protocols: list[str]) -> None:
    whole = all(isinstance(rank, int) and 1 <= rank <= MAX_RANK for rank in ranks)
    _check(whole, f"test.ranks is {ranks}; ranks are whole numbers from 1 to {MAX_RANK}")
    _check(bool(protocols), "embae.test.protocols is empty; name market, nd or both")


def _check_method(cfg: CfgNode, flat: dict[str, Any]) -> None:
    _check(cfg.data.type == "image", "loss.name embae works on images; data.type is "
           f"{cfg.data.type!r}")  # fmt: skip
    _check(
        cfg.model.name.startswith("embae_") or bool(cfg.model.load_weights),
        f"loss.name embae needs an EmbAE model, or with model.load_weights a network of "
        f"torchreid's; model.name is {cfg.model.name!r}; for example model.name embae_mobilenetv1",
    )
    for key, neutral in _NOT_OF_EMBAE.items():
        _check(
            flat[key] == neutral,
            f"{key} is torchreid's own and not part of loss.name embae; leave it at {neutral!r}, "
            "or use loss.name triplet",
        )
    _check(not cfg.embae.embedding.camera_norm or cfg.embae.embedding.step != "graph",
           "embae.embedding.step graph cannot be had with embae.embedding.camera_norm, which "
           "splits every batch in another way: leave it at auto")  # fmt: skip
    _check(cfg.train.optim == "adam" or cfg.embae.embedding.step != "graph",
           "embae.embedding.step graph works with train.optim adam only")  # fmt: skip


def _check_scikit_learn(variants: list[str]) -> None:
    need = [name for name in variants if name in ("pul", "supervised") or "clusters" in name]
    _check(not need or importlib.util.find_spec("sklearn") is not None, "embae.variants names "
           f"{', '.join(need)}, which scikit-learn serves: pip install scikit-learn")  # fmt: skip


def _check_clusters(node: CfgNode) -> None:
    _check(node.eps < 1, f"embae.clusters.eps is {node.eps}; Jaccard distances lie below 1")
    _check(0 <= node.keep <= 1, f"embae.clusters.keep is {node.keep}; it is a share, 0 to 1")
    size, each = node.batch_size, node.num_instances
    _check(size >= 2 * each and size % each == 0, f"embae.clusters.batch_size is {size}; it must "
           f"be a multiple of embae.clusters.num_instances, {each}, at least twice it")  # fmt: skip


def _check_pul(node: CfgNode) -> None:
    share, cosine = node.dropout, node.threshold
    _check(0 <= share < 1, f"embae.pul.dropout is {share}; it must be at least 0 and below 1")
    _check(-1 <= cosine < 1, f"embae.pul.threshold is {cosine}; it is a cosine, -1 to below 1")
    for key in ("clusters", "batch_size"):
        _check(node[key] >= 2, f"embae.pul.{key} is {node[key]}; it must be at least 2")
    _check(node.base == "embedding" or not node.heads_only, "embae.pul.heads_only leaves nothing "
           "to learn with embae.pul.base softmax, which is a trunk alone")  # fmt: skip


def _check_nuisance(node: CfgNode, width: int) -> None:
    share = node.dropout
    _check(share < 1, f"embae.nuisance.dropout is {share}; it must be at least 0 and below 1")
    used = [f"embae.nuisance.{key}" for key, value in node.items() if value]
    _check(width > 0 or not used, f"{', '.join(used)}: with embae.z_nui_dim 0 there is no code "
           "that it could hold back")  # fmt: skip


def _check_datasets(sources: list[str], targets: list[str], stages: list[str]) -> None:
    _check(bool(sources) or "embedding" not in stages,
           "data.sources is empty; name at least one labelled dataset")  # fmt: skip
    _check(
        len(targets) <= 1,
        f"EmbAE adapts to one target in a run, data.targets has {len(targets)}: "
        f"{', '.join(targets)}; run once for each",
    )
    if "transfer" in stages:
        _check(bool(targets), "data.targets is empty; name the dataset to adapt to")
        both = sorted(set(sources) & set(targets))
        _check(not both, f"{', '.join(both)} is both a source and the target; the target must "
               "be other cameras than those the model learned on")  # fmt: skip
        _check("autoencoder" in stages, f"embae.stages is {stages}: transfer starts from the "
               "autoencoder; add it (a finished one is only read)")  # fmt: skip
