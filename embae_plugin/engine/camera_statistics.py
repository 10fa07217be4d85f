"""Statistics for each camera, estimated on unlabelled crops (Zhuang et al., ECCV 2020).

In f_emb alone, which needs cached features and takes moments; or in the whole trunk, which takes
one pass over the images. No weight is touched, and no label read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from embae_plugin.data.augment import normalise
from embae_plugin.data.crops import FEW
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.engine.schedule import seeded
from embae_plugin.models.camera_norm import (
    LEAST,
    CameraNorm,
    at_cameras,
    camera_layers,
    use_cameras,
)
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import inference_format
from embae_plugin.precision import full_precision

logger = logging.getLogger(__name__)

PRIOR = 32.0  # images of all cameras that each camera's own are mixed with
_MOST = 4096  # cameras of a model; more is no numbering from 0


def camera_count(camids: np.ndarray) -> int:
    """C, one more than the highest camera number.

    Raises:
        ValueError: no images, or numbers that do not count cameras from 0.
    """
    if not len(camids) or camids.min() < 0 or camids.max() >= _MOST:
        raise ValueError(
            f"statistics by camera need images, with cameras numbered from 0 to {_MOST - 1} at "
            f"most; got {len(camids)} images of cameras "
            f"{sorted(set(camids.tolist()))[:8] if len(camids) else '(none)'}"
        )
    return int(camids.max()) + 1


def mix(layer: CameraNorm, counts: torch.Tensor) -> None:
    """Puts common statistics into the last row, and mixes them into each camera's own.

    A camera counts as if :data:`PRIOR` images of the whole target had been taken by it as well, so
    one with few images stays near what all have in common; one with fewer than four takes that.

    Args:
        layer: its rows hold the moments of each camera's own images.
        counts: (C,) images of each camera.
    """
    mean, var = layer.running_mean[:-1].double(), layer.running_var[:-1].double()
    share = (counts / counts.sum()).double()[:, None].to(mean.device)
    common = (share * mean).sum(0)
    spread = (share * (var + (mean - common).square())).sum(0)
    own = torch.where(counts < LEAST, 0.0, counts / (counts + PRIOR))[:, None].to(mean)
    mixed = own * mean + (1 - own) * common
    mixed_var = own * (var + (mean - mixed).square())
    mixed_var += (1 - own) * (spread + (common - mixed).square())
    layer.running_mean.copy_(torch.cat([mixed, common[None]]))
    layer.running_var.copy_(torch.cat([mixed_var, spread[None]]))


@torch.no_grad()
def estimate(
    model: EmbAE, records: ImageRecords, store: FeatureStore, parts: str, seed: int = 1
) -> None:
    """Gives the model statistics for each of the records' cameras; in place.

    Args:
        model: with or without statistics by camera; those it has are estimated again.
        records: unlabelled crops; ``camids`` are the model's camera numbers.
        store: the crops' images and features.
        parts: ``heads`` or ``trunk``.
        seed: of the order of images.

    Raises:
        ValueError: no images, cameras not numbered from 0, or a trunk without batch norm.
    """
    cameras = camera_count(records.camids)
    counts = torch.bincount(torch.from_numpy(records.camids), minlength=cameras)
    few = [f"{camera} ({n})" for camera, n in enumerate(counts.tolist()) if 0 < n < FEW]
    if few:
        logger.warning("camera(s) with fewer than %d images: %s; their statistics are mixed with "
                       "those of all cameras", FEW, ", ".join(few))  # fmt: skip
    if not model.camera_parts:
        model.learn_cameras(parts, cameras)
    elif (model.camera_parts, model.cameras) != (parts, cameras):
        raise ValueError(
            f"the model has statistics of {model.cameras} cameras in its {model.camera_parts}, "
            f"not of {cameras} in its {parts}: start from one without"
        )
    if parts == "heads":
        _estimate_heads(model, records, store, counts)
    else:
        _estimate_trunk(model, records, store, counts, seed)
    model.eval()


@torch.no_grad()
def estimate_common(
    model: EmbAE, records: ImageRecords, store: FeatureStore, seed: int = 1
) -> None:
    """Gives the trunk's batch norm the statistics of all records together; in place.

    For a trunk without statistics by camera, whose running ones are not those of its images.

    Raises:
        ValueError: no images, or a trunk without batch norm.
    """
    plain = {n: m for n, m in model.trunk.named_modules() if isinstance(m, _BatchNorm)}
    use_cameras(model.trunk, 1)
    as_one = replace(records, camids=np.zeros(len(records), dtype=np.int64))
    try:
        _estimate_trunk(model, as_one, store, torch.tensor([len(records)]), seed, "source")
        for name, layer in plain.items():
            estimated = cast(CameraNorm, model.trunk.get_submodule(name))
            cast(torch.Tensor, layer.running_mean).copy_(estimated.running_mean[0])
            cast(torch.Tensor, layer.running_var).copy_(estimated.running_var[0])
    finally:
        for name, layer in plain.items():
            model.trunk.set_submodule(name, layer)
    model.eval()


def _estimate_heads(
    model: EmbAE, records: ImageRecords, store: FeatureStore, counts: torch.Tensor
) -> None:
    (layer,) = camera_layers(model.f_emb)
    features = store.features(model.trunk, records, "target").features
    camids = torch.from_numpy(records.camids).to(features.device)
    for camera, count in enumerate(counts.tolist()):
        if count:
            hidden = model.f_emb.hidden(features[camids == camera].flatten(0, 1).float())
            layer.running_mean[camera] = hidden.mean(0)
            layer.running_var[camera] = hidden.var(0, unbiased=False)
    mix(layer, counts)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Numbers 0 to count − 1, shuffled, in batches of about equal length."""
    order = torch.randperm(count, generator=generator)
    yield from order.chunk(max(1, round(count / size)))


def _estimate_trunk(
    model: EmbAE,
    records: ImageRecords,
    store: FeatureStore,
    counts: torch.Tensor,
    seed: int,
    label: str = "target",
    batch_size: int = 96,
) -> None:
    """The mean over batches of one camera's images of what each layer sees in training mode.

    Cameras of fewer than four images have no moments to add to what all have in common; where
    none has more, the trunk's own statistics stay.
    """
    layers, trunk = camera_layers(model.trunk), model.trunk
    bank = store.images(records, label)
    rows_of = [np.flatnonzero(records.camids == camera) for camera in range(len(counts))]
    momenta = [layer.momentum for layer in layers]
    order = inference_format(bank.device)
    trunk.train().to(memory_format=order)
    with (
        tqdm(total=len(records), desc="camera statistics", unit="img", disable=None) as bar,
        full_precision(bank.device),
    ):
        for camera, rows in enumerate(rows_of):
            if len(rows) < LEAST:
                continue
            generator = seeded(seed, "camera statistics", camera)
            for number, batch in enumerate(_batches(len(rows), batch_size, generator)):
                for layer in layers:
                    layer.momentum = 1 / (number + 1)
                images = bank.batch(torch.from_numpy(rows)[batch])
                images = images.flip(2) if number % 2 else images
                with at_cameras(trunk, torch.full((len(batch),), camera)):
                    x = normalise(images, store.mean, store.std)
                    trunk(x.contiguous(memory_format=order))
                bar.update(len(batch))
    trunk.eval()
    seen = torch.where(counts < LEAST, 0, counts)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        if seen.any():
            mix(layer, seen)
