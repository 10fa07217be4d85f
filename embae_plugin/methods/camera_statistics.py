"""Statistics for each camera, estimated on unlabelled crops (Zhuang et al., ECCV 2020).

In f_emb alone, which needs cached features and takes moments; or in the whole trunk, which takes
one pass over the images. No weight is touched, and no label read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from embae_plugin import distributed
from embae_plugin.data.augment import normalise
from embae_plugin.data.crops import FEW
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.models.camera_norm import (
    LEAST,
    CameraNorm,
    camera_layers,
    use_cameras,
)
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import inference_format
from embae_plugin.precision import full_precision
from embae_plugin.progress import Progress
from embae_plugin.training.schedule import seeded
from embae_plugin.training.shared_batch import send_statistics

logger = logging.getLogger(__name__)

PRIOR = 32.0  # images of all cameras that each camera's own are mixed with
GUESS_BATCH = 256
MOST_GUESS = 20_000  # crops that guessing the camera is learned from
MOST_COMMON = 2048  # images of all cameras that the common statistics are taken of
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
    """Mixes the statistics in the last row, common to all, into each camera's own.

    A camera counts as if :data:`PRIOR` images of the whole target had been taken by it as well, so
    one with few images stays near what all have in common; one with fewer than four takes that.

    Args:
        layer: its first rows hold the moments of each camera's own images.
        counts: (C,) images of each camera.
    """
    mean, var = layer.running_mean[:-1].double(), layer.running_var[:-1].double()
    common, spread = layer.running_mean[-1].double(), layer.running_var[-1].double()
    own = torch.where(counts < LEAST, 0.0, counts / (counts + PRIOR))[:, None].to(mean)
    mixed = own * mean + (1 - own) * common
    mixed_var = own * (var + (mean - mixed).square())
    mixed_var += (1 - own) * (spread + (common - mixed).square())
    layer.running_mean[:-1] = mixed.to(layer.running_mean)
    layer.running_var[:-1] = mixed_var.to(layer.running_var)


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
                       "those of all cameras", FEW, ", ".join(few))
    names = records.camera_table()
    if not model.camera_parts:
        model.learn_cameras(parts, names)
    elif (model.camera_parts, model.camera_names) != (parts, names):
        raise ValueError(
            f"the model has statistics of the cameras {', '.join(model.camera_names)} in its "
            f"{model.camera_parts}, not of "
            f"{'the same' if names == model.camera_names else ', '.join(names)} in its {parts}: "
            "start from one without"
        )
    renew(model, records, store, seed)
    learn_guess(model, records, store, seed)


@torch.no_grad()
def renew(model: EmbAE, records: ImageRecords, store: FeatureStore, seed: int = 1) -> None:
    """Estimates the statistics by camera that a model has, with its weights of the moment.

    Arguments are those of :func:`estimate`. Which camera a crop looks like hangs on no weight and
    stays as it was learned.
    """
    counts = torch.bincount(torch.from_numpy(records.camids), minlength=model.cameras)
    if model.camera_parts == "heads":
        _estimate_heads(model, records, store, counts)
    else:
        Estimation(model, records, store, seed).by_camera(counts)
    model.eval()


@torch.no_grad()
def learn_guess(
    model: EmbAE, records: ImageRecords, store: FeatureStore, seed: int = 1
) -> None:
    """Which camera crops without a camera's name look like, see :class:`CameraGuess`; in place.

    Arguments are those of :func:`estimate`; a model that cannot guess stays as it is. Of many
    crops it is learned from a draw of :data:`MOST_GUESS`.
    """
    guess, camids = model.guess, records.camids
    if guess is None:
        return
    bank = store.images(records, "target")
    rows = torch.randperm(len(camids), generator=seeded(seed, "camera guess"))[:MOST_GUESS]
    guess.norm_mean.copy_(torch.tensor(store.mean))
    guess.norm_std.copy_(torch.tensor(store.std))
    marks = [
        guess.marks(normalise(bank.batch(block), store.mean, store.std)).cpu()
        for block in torch.split(rows, GUESS_BATCH)
    ]
    guess.learn(torch.cat(marks).numpy(), camids[rows.numpy()])


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
    try:
        Estimation(model, records, store, seed, "source").common(len(records))
        for name, layer in plain.items():
            estimated = cast(CameraNorm, model.trunk.get_submodule(name))
            cast(torch.Tensor, layer.running_mean).copy_(estimated.running_mean[-1])
            cast(torch.Tensor, layer.running_var).copy_(estimated.running_var[-1])
    finally:
        for name, layer in plain.items():
            model.trunk.set_submodule(name, layer)
    model.eval()


def _estimate_heads(
    model: EmbAE, records: ImageRecords, store: FeatureStore, counts: torch.Tensor
) -> None:
    """Moments of the cached features in the one layer that f_emb has."""
    (layer,) = camera_layers(model.f_emb)
    features = store.features(model, records, "target")
    hidden = model.f_emb.hidden(features.flatten(0, 1).float())
    camids = torch.from_numpy(records.camids).to(features.device)
    of_row = camids.repeat_interleave(features.shape[1])
    rows = {-1: hidden, **{n: hidden[of_row == n] for n, c in enumerate(counts.tolist()) if c}}
    for camera, part in rows.items():
        layer.running_mean[camera] = part.mean(0)
        layer.running_var[camera] = part.var(0, unbiased=False)
    mix(layer, counts)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Numbers 0 to count − 1, shuffled, in batches of about equal length."""
    order = torch.randperm(count, generator=generator)
    yield from order.chunk(max(1, round(count / size)))


class Estimation:
    """Passes over images in which each batch norm's moments are averaged over batches.

    Args:
        model: its network's batch norms have statistics by camera.
        records, store: the images.
        seed: of their order.
        label: what the progress bar calls them.
        batch_size: images in a batch, about.
    """

    def __init__(
        self,
        model: EmbAE,
        records: ImageRecords,
        store: FeatureStore,
        seed: int,
        label: str = "target",
        batch_size: int = 96,
    ) -> None:
        self.model, self.store, self.seed, self.batch_size = model, store, seed, batch_size
        self.records, self.bank = records, store.images(records, label)
        self.order = inference_format(self.bank.device)
        self.layers = [layer for part in model.network() for layer in camera_layers(part)]
        for part in model.network():
            part.to(memory_format=self.order)

    def by_camera(self, counts: torch.Tensor) -> None:
        """The common row, each camera's row, and the first mixed into the second.

        Where no camera has four images, the network's own statistics stay. Several processes
        share out the rows, each computed by one, to the bits of a process alone.
        """
        if int(counts.max()) < LEAST:
            return
        rows = {-1: self._common_rows(MOST_COMMON)}
        rows |= {camera: np.flatnonzero(self.records.camids == camera)
                 for camera, count in enumerate(counts.tolist()) if count >= LEAST}
        cameras = list(rows)
        dealt = distributed.deal([len(rows[camera]) for camera in cameras])[distributed.rank()]
        mine = [cameras[n] for n in sorted(dealt)]
        for camera in mine:
            self._row(camera, rows[camera])
        send_statistics(self.layers, mine, cameras)
        for layer in self.layers:
            mix(layer, counts)

    def _common_rows(self, most: int) -> np.ndarray:
        generator = seeded(self.seed, "camera statistics")
        return torch.randperm(len(self.records), generator=generator)[:most].numpy()

    def common(self, most: int) -> None:
        """What the layers see of images of all cameras, normalised together."""
        rows = self._common_rows(most)
        if len(rows) >= LEAST:
            self._row(-1, rows)

    def _row(self, camera: int, rows: np.ndarray) -> None:
        """One row: the mean over batches of these images, every other batch mirrored."""
        momenta = [layer.momentum for layer in self.layers]
        generator = seeded(self.seed, "camera statistics", camera)
        for part in self.model.network():
            part.train()
        with (
            Progress(self._name(camera), len(rows)) as bar,
            full_precision(self.bank.device),
        ):
            for number, batch in enumerate(_batches(len(rows), self.batch_size, generator)):
                for layer in self.layers:
                    layer.momentum = 1 / (number + 1)
                images = self.bank.batch(torch.from_numpy(rows)[batch])
                images = images.flip(2) if number % 2 else images
                x = normalise(images, self.store.mean, self.store.std)
                x = x.contiguous(memory_format=self.order)
                self.model.network_features(x, torch.full((len(batch),), camera), common=True)
                bar.update(len(batch))
        for layer, momentum in zip(self.layers, momenta, strict=True):
            layer.momentum = momentum
        self.model.eval()

    def _name(self, camera: int) -> str:
        known = camera >= 0 and camera < self.model.cameras
        return f"statistics of {self.model.camera_names[camera] if known else 'all cameras'}"
