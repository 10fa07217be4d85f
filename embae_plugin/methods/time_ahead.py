"""How long an adaptation will take on this machine: a few real steps of each kind, counted up."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from embae_plugin.data.augment import normalise
from embae_plugin.data.feature_bank import FeatureStore, block_size, extract_features, flip_views
from embae_plugin.data.few_cameras import most_cameras
from embae_plugin.data.records import ImageRecords
from embae_plugin.methods.camera_statistics import MOST_COMMON, Estimation
from embae_plugin.methods.clusters import ClusterSettings, ImageClusterEngine
from embae_plugin.methods.distill import DistillSettings
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.methods.registry import BASELINE, chain
from embae_plugin.methods.run_settings import AdaptSettings
from embae_plugin.models.camera_norm import has_batch_norm
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.train_step import NEARLY_EQUAL, resolve_precision

logger = logging.getLogger(__name__)

LEAST = 300  # crops, below which measuring would take as long as adapting
PROBES = 6  # steps by which a stage chooses its precision, where it does


class Work(NamedTuple):
    """Passes over all crops, and stages that learn."""

    features: int = 1  # of the model before
    statistics: int = 0
    learned: int = 0
    stages: int = 0


def work_of(cfg: CfgNode, cameras: int) -> Work | None:
    """What a configuration does, or None where its method is not made of such passes."""
    guards, work, by_camera = AdaptSettings.of(cfg), Work(), False
    for row in chain(guards.row(cameras), cfg):
        if row.method is ImageNormEngine and row.fixed["parts"] == "trunk":
            work, by_camera = Work(2, 1), True
        elif row.method is ImageClusterEngine and row.fixed["learn"] == "trunk":
            node = ClusterSettings.of(cfg, **row.fixed)
            rounds, renewed = node.trunk_rounds, cameras > most_cameras(node.batch_size)
            work = Work(work.features + rounds, 1 + (rounds if renewed else 1), rounds, 1)
        elif row.method is not ImageClusterEngine and row.name != BASELINE:
            return None
    if by_camera and guards.plain:
        passes = DistillSettings.of(cfg).max_epoch
        work = work._replace(learned=work.learned + passes, stages=work.stages + 1)
    return work


def seconds_ahead(
    model: EmbAE, target: ImageRecords, store: FeatureStore, cfg: CfgNode
) -> float | None:
    """About how many seconds :func:`adapt` will take; None where that cannot be foreseen.

    Searches of neighbours are left out: up to some 100,000 crops they are a small part.
    """
    names, count = target.camera_table(), len(target)
    work, device, node = work_of(cfg, len(names)), store.device, ClusterSettings.of(cfg)
    if work is None or count < LEAST or not any(has_batch_norm(part) for part in model.network()):
        return None
    bank, size = store.images(target, "crops"), min(node.batch_size, count)
    trained = copy.deepcopy(model)
    trained.learn_cameras("trunk", names)
    learned = nn.ModuleList(trained.network())

    def seconds(run: Callable[[], object]) -> float:
        for _ in range(2):  # the first prepares memory and kernels
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
        return time.perf_counter() - started

    def features(rows: int) -> float:
        how = flip_views(), store.size, store.mean, store.std, (0, rows)
        return seconds(lambda: extract_features(model.trunk, bank, *how))

    few, crops = min(2 * block_size(device), count // 2), min(count, 192)
    once, twice = features(few), features(2 * few)
    feature = max(0.0, twice - once) / few  # what does not grow is a copy of each camera's trunk
    frozen = len(names) * max(0.0, once - few * feature)
    statistic = seconds(lambda: Estimation(trained, target, store, 1).common(crops)) / crops
    rows = np.linspace(0, count - 1, size).astype(np.int64)
    index = torch.from_numpy(rows[np.argsort(target.camids[rows], kind="stable")])
    camids = torch.from_numpy(target.camids)[index]
    learned.train().to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(learned.parameters(), fused=True)

    def step(bf16: bool) -> None:
        images = normalise(bank.batch(index), store.mean, store.std)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            x = trained.network_features(images, camids)
        adam.zero_grad(set_to_none=True)
        x.square().mean().backward()  # type: ignore[no-untyped-call]
        adam.step()

    bf16, probes = resolve_precision(node.precision, device), 0
    each = seconds(lambda: step(bf16))
    if bf16 and device.type == "cpu" and node.precision == "auto":
        exact, probes = seconds(lambda: step(False)), PROBES
        each = each if each < NEARLY_EQUAL * exact else exact
    logger.info("timed: features of both views %.1f ms a crop, statistics %.1f ms, a step of %d "
                "crops %.2f s", 1e3 * feature, 1e3 * statistic, size, each)
    return (
        work.features * (count * feature + frozen)
        + work.statistics * (count + min(count, MOST_COMMON)) * statistic
        + (work.learned * (count // size) + work.stages * probes) * each
    )
