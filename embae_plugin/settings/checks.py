"""Refuses configurations that cannot work, before anything is loaded.

Limits stand with the settings themselves (:mod:`settings.fields`). Here are those of torchreid's
own keys, and which of these ``loss.name embae`` follows: any other is refused by name, so that no
setting is accepted and then left unused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from embae_plugin.settings.fields import NODES, Settings, setting
from embae_plugin.settings.tree import flatten, torchreid_tree

MAX_RANK = 50  # the length of the CMC
TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
# torchreid's keys that loss.name embae follows; some change nothing but speed or what is printed.
FOLLOWED = {
    "use_gpu", "loss.name", "loss.triplet.margin", "adam.beta1", "adam.beta2", "rmsprop.alpha",
    *(f"model.{key}" for key in ("name", "pretrained", "load_weights")),
    *(f"data.{key}" for key in (
        "type", "root", "sources", "targets", "workers", "split_id", "height", "width",
        "combineall", "transforms", "norm_mean", "norm_std", "save_dir", "load_train_targets")),
    *(f"train.{key}" for key in (
        "optim", "lr", "weight_decay", "max_epoch", "batch_size", "staged_lr", "new_layers",
        "base_lr_mult", "lr_scheduler", "stepsize", "gamma", "print_freq", "seed")),
    *(f"test.{key}" for key in (
        "batch_size", "dist_metric", "normalize_feature", "ranks", "evaluate", "eval_freq",
        "start_eval")),
    *(f"sgd.{key}" for key in ("momentum", "dampening", "nesterov")),
    "market1501.use_500k_distractors", "cuhk03.labeled_images", "cuhk03.classic_split",
    "sampler.train_sampler", "sampler.num_instances",
}
CONFIG_CHECKS: list[Callable[[CfgNode], None]] = []  # of whatever has some, for loss.name embae


@dataclass(frozen=True)
class _TorchreidSettings(Settings):
    """torchreid's keys, as far as there is something to say about them."""

    height: int = setting(256, "", above=0, key="data.height")
    width: int = setting(128, "", above=0, key="data.width")
    batch_size: int = setting(32, "", above=0, key="train.batch_size")
    test_batch_size: int = setting(100, "", above=0, key="test.batch_size")
    num_instances: int = setting(4, "", above=0, key="sampler.num_instances")
    lr: float = setting(0.0003, "", above=0, key="train.lr")
    max_epoch: int = setting(60, "", least=0, key="train.max_epoch")
    weight_decay: float = setting(5e-4, "", least=0, key="train.weight_decay")


@dataclass(frozen=True)
class _FollowedSettings(Settings):
    """Those of which loss.name embae knows some values only."""

    optim: str = setting("adam", "", key="train.optim",
                         choices=("adam", "amsgrad", "sgd", "rmsprop", "radam"))
    lr_scheduler: str = setting("exponential", "", key="train.lr_scheduler",
                                choices=("exponential", "single_step", "multi_step", "cosine"))
    dist_metric: str = setting("euclidean", "", key="test.dist_metric",
                               choices=("euclidean", "cosine"))
    # Batches are drawn as the second does, whatever the first, which is torchreid's default, says.
    train_sampler: str = setting("RandomSampler", "", key="sampler.train_sampler",
                                 choices=("RandomSampler", "RandomDatasetIdentitySampler"))
    transforms: tuple[str, ...] = setting((), "", key="data.transforms", choices=TRANSFORMS)


def check(condition: bool, message: str) -> None:
    """Raises ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def check_config(cfg: CfgNode) -> None:
    """Refuses what cannot work before anything is loaded.

    Raises:
        ValueError: names the key, its value and what would be right.
    """
    embae = cfg.loss.name == "embae"
    _TorchreidSettings.of(cfg)
    if embae:
        transforms = tuple(t.lower() if isinstance(t, str) else t for t in cfg.data.transforms)
        _FollowedSettings.of(cfg, transforms=transforms)
    for cls in NODES.values():
        if embae or all(key.startswith("embae.") for key in cls.followed()):
            cls.of(cfg)
    _check_normalisation(cfg.data.norm_mean, cfg.data.norm_std, empty=embae)
    if not embae:
        return
    check(cfg.data.type == "image", f"loss.name embae works on images; data.type is "
          f"{cfg.data.type!r}")
    refuse_ignored(cfg)
    whole = all(isinstance(rank, int) and 1 <= rank <= MAX_RANK for rank in cfg.test.ranks)
    check(whole, f"test.ranks is {cfg.test.ranks}; ranks are whole numbers from 1 to {MAX_RANK}")
    for hook in CONFIG_CHECKS:
        hook(cfg)


def refuse_ignored(cfg: CfgNode) -> None:
    """Refuses a torchreid key that is set to something and that loss.name embae does not follow.

    Raises:
        ValueError: names it.
    """
    now, defaults = flatten(cfg), flatten(torchreid_tree())
    for key, default in defaults.items():
        check(
            key in FOLLOWED or now[key] == default,
            f"{key} is torchreid's own and not part of loss.name embae; leave it at {default!r}, "
            "or use loss.name triplet",
        )
    exponential = cfg.train.lr_scheduler == "exponential"
    for key in ("train.stepsize", "train.gamma"):
        check(not exponential or now[key] == defaults[key], f"{key} is of other schedules: with "
              f"train.lr_scheduler exponential leave it at {defaults[key]}")
    soft, margin = cfg.embae.embedding.soft_margin, "loss.triplet.margin"
    check(not soft or now[margin] == defaults[margin], "loss.triplet.margin is the hinge's: it is "
          "followed with embae.embedding.soft_margin False alone")


def refuse_others(options: Iterable[str], followed: set[str], what: str) -> None:
    """Refuses keys of a command line that a command does not follow.

    Args:
        options: the keys that were given.
        followed: keys, or beginnings of keys that end with a dot.
        what: the command, for the message.

    Raises:
        ValueError: names them.
    """
    begins = tuple(key for key in followed if key.endswith("."))
    other = [key for key in options if key not in followed and not key.startswith(begins)]
    check(not other, f"{', '.join(other)}: {what}")


def _check_normalisation(mean: list[Any], std: list[Any], empty: bool) -> None:
    """``empty``: either may be left to the trunk's weights, by an empty list."""
    for key, values in (("data.norm_mean", mean), ("data.norm_std", std)):
        numbers = all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
        check((len(values) == 3 and numbers) or (empty and not values),
              f"{key} is {values}; it must be 3 numbers (R, G, B)")
    check(min(std, default=1) > 0, f"data.norm_std is {std}; each must be greater than 0")
