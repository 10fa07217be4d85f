"""How long an adaptation will take on this machine: a few real steps of each kind, counted up."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from embae_plugin.clustering.neighbours import MANY, nearest
from embae_plugin.data.augment import Augmentation
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
from embae_plugin.training.train_step import has_fast_bf16, resolve_precision

LEAST = 300  # crops, below which measuring would take as long as adapting
PROBES = 6  # steps by which a stage on such a processor chooses its precision
SEARCHED = 4096  # crops whose search is measured


class Work(NamedTuple):
    """Passes over all crops, and searches of the nearest among them."""

    features: int = 1  # of the model before
    statistics: int = 0
    learned: float = 0
    distilled: float = 0
    searches: int = 0


def work_of(cfg: CfgNode, cameras: int) -> Work | None:
    """What a configuration does, or None where its method is not made of such passes."""
    guards, work, by_camera = AdaptSettings.of(cfg), Work(), False
    for row in chain(guards.row(cameras), cfg):
        if row.method is ImageNormEngine and row.fixed["parts"] == "trunk":
            work, by_camera = work._replace(features=2, statistics=1), True
        elif row.method is ImageClusterEngine:
            node = ClusterSettings.of(cfg, **row.fixed)
            if node.learn == "heads":
                work = work._replace(searches=node.rounds)
                continue
            rounds, renewed = node.trunk_rounds, cameras > most_cameras(node.batch_size)
            work = work._replace(
                features=work.features + rounds, searches=rounds, learned=float(rounds),
                statistics=work.statistics + by_camera * (rounds if renewed else 1),
            )
        elif row.name != BASELINE:
            return None
    return work._replace(distilled=DistillSettings.of(cfg).max_epoch * (by_camera and guards.plain))


def seconds_ahead(
    model: EmbAE, target: ImageRecords, store: FeatureStore, cfg: CfgNode
) -> float | None:
    """About how many seconds :func:`adapt` will take; None where that cannot be foreseen."""
    names, count = target.camera_table(), len(target)
    work = work_of(cfg, len(names))
    if work is None or count < LEAST or not any(has_batch_norm(part) for part in model.network()):
        return None
    plain, by_camera = copy.deepcopy(model), copy.deepcopy(model)
    by_camera.learn_cameras("trunk", names)
    bank, device, node = store.images(target, "crops"), store.device, ClusterSettings.of(cfg)

    def seconds(run: Callable[[], object], repeats: int = 1) -> float:
        run()  # prepares memory and kernels
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / repeats

    some = min(2 * block_size(device), count // 2)
    few, more = (seconds(lambda n=n: extract_features(  # type: ignore[misc]
        plain.trunk, bank, flip_views(), store.size, store.mean, store.std, (0, n)
    )) for n in (some, 2 * some))
    feature = max(0.0, more - few) / some
    frozen = max(0.0, few - some * feature)  # a copy of the trunk for each camera
    shown = min(count, 192)
    statistic = seconds(lambda: Estimation(by_camera, target, store, 1).common(shown)) / shown
    size = min(node.batch_size, count)
    rows = np.linspace(0, count - 1, size).astype(np.int64)
    rows = rows[np.argsort(target.camids[rows], kind="stable")]
    augment = Augmentation(node.transforms, store.mean, store.std)

    def learning(net: EmbAE, camids: torch.Tensor | None, bf16: bool) -> float:
        nn.ModuleList(net.network()).train().to(memory_format=torch.channels_last)
        learned = [p for part in net.network() for p in part.parameters()]
        adam = torch.optim.Adam(learned, fused=True)
        draw = torch.Generator().manual_seed(1)

        def step() -> None:
            images = augment(bank.batch(torch.from_numpy(rows)), draw)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                x = net.network_features(images, camids)
            adam.zero_grad(set_to_none=True)
            x.square().mean().backward()  # type: ignore[no-untyped-call]
            adam.step()

        return seconds(step, 2) / size

    camids = torch.from_numpy(target.camids[rows])
    both = resolve_precision(node.precision, device), False
    chosen = device.type == "cpu" and node.precision == "auto" and has_fast_bf16(device)
    times = {bf16: learning(by_camera, camids, bf16) for bf16 in set(both[: 1 + chosen])}
    bf16 = min(times, key=lambda bf16: times[bf16] * (1 if bf16 else 0.9))
    learned = times[bf16]
    distilled = learning(plain, None, bf16) if work.distilled else 0.0
    probes = chosen * PROBES * size * learned * ((work.learned > 0) + (work.distilled > 0))
    part = min(count, SEARCHED)
    x = torch.randn(part, model.trunk.feature_dim, device=device)
    compared = count * (count if device.type == "cuda" else min(count, MANY)) / part**2
    searched = seconds(lambda: nearest(x, min(part, node.k1 + 1))) * compared
    return (
        work.features * (count * feature + len(names) * frozen)
        + work.statistics * (count + min(count, MOST_COMMON)) * statistic
        + count * (work.learned * learned + work.distilled * distilled)
        + probes + work.searches * searched
    )
