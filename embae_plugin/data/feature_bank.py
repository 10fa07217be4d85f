"""Trunk features, computed once for each image and view and read by everything after stage 1.

The trunk is frozen after stage 1 (paper 4.1), so stages 2 and 3, test-time augmentation and
every evaluation see only h = trunk(x). A bank is named by the trunk's weights, the images'
content and the views, so that a second run, or a second variant, computes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from embae_plugin import distributed
from embae_plugin.atomic_file import replacing
from embae_plugin.data.augment import normalise
from embae_plugin.data.embedding_files import check_npy_size
from embae_plugin.data.image_bank import CorruptImageError, ImageBank, content_key
from embae_plugin.data.records import ImageRecords
from embae_plugin.models.camera_norm import knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import freeze, trunk_fingerprint
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import Trunk
from embae_plugin.precision import full_precision
from embae_plugin.progress import Progress

logger = logging.getLogger(__name__)

BLOCK, GPU_BLOCK = 64, 512  # images that go through the trunk together
GUESS_BLOCK = 256  # images at a time whose camera is guessed
# Of features in memory; the same for all processes, which must agree on what is to be computed.
MOST_BYTES = 2 << 30
_Name = tuple[tuple[str, ...], int, int]  # of an image bank: its paths, height and width


class View(NamedTuple):
    """A window of the stored image, in pixels from its top left corner, mirrored or not."""

    top: int
    left: int
    mirrored: bool


def flip_views(flips: bool = True) -> tuple[View, ...]:
    """The whole image and, if asked for, its mirror image."""
    return (View(0, 0, False), View(0, 0, True))[: 2 if flips else 1]


def ten_crop_size(height: int, width: int) -> tuple[int, int]:
    """The size images are enlarged to before five crops are cut (Hermans et al., 2017: 9/8)."""
    return round(height * 1.125), round(width * 1.125)


def ten_crop_views(height: int, width: int) -> tuple[View, ...]:
    """Four corners and the centre of the enlarged image, each with its mirror image."""
    tall, wide = ten_crop_size(height, width)
    down, right = tall - height, wide - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    return tuple(View(top, left, mirrored) for top, left in corners for mirrored in (False, True))


@torch.inference_mode()
def extract_features(
    trunk: Trunk, bank: ImageBank, views: Sequence[View], size: tuple[int, int],
    mean: Sequence[float], std: Sequence[float], rows: tuple[int, int] | None = None,
    cameras: torch.Tensor | None = None,
) -> torch.Tensor:
    """Trunk features of every image in every view: (N, V, D) float32 on the bank's device.

    Args:
        size: (height, width) of a view; images are larger where views are crops.
        mean, std: what images in [0, 1] are normalised by.
        rows: the first image and the one after the last, if not all N are wanted.
        cameras: (N,) the trunk's number of each image's camera, −1 for one it has never seen; for
            a trunk with statistics by camera.
    """
    device, (start, stop) = bank.device, rows or (0, len(bank))
    index = torch.arange(start, stop)
    camera_of = torch.full_like(index, -1) if cameras is None else cameras[start:stop]
    with torch.inference_mode(False):  # what it makes refuses to take part in training
        out = torch.empty(stop - start, len(views), trunk.feature_dim, device=device)
    with (
        Progress(f"features {bank.label}", stop - start) as bar,
        full_precision(device),
    ):
        for camera in torch.unique(camera_of).tolist():
            features = freeze(trunk, size, device, camera)
            for block in torch.split(index[camera_of == camera], block_size(device)):
                images, row = bank.batch(block), (block - start).to(device)
                for number, (top, left, mirrored) in enumerate(views):
                    window = images[:, top : top + size[0], left : left + size[1]]
                    window = window.flip(2) if mirrored else window
                    out[row, number] = features(normalise(window, mean, std))
                bar.update(len(block))
    return out


def block_size(device: torch.device) -> int:
    """How many images go through a trunk together."""
    return GPU_BLOCK if device.type == "cuda" else BLOCK


def keep_array(path: Path, array: np.ndarray) -> None:
    """Writes a whole .npy file or, with a warning, none: what was computed is in memory."""
    try:
        with replacing(path) as draft, draft.open("wb") as stream:
            np.save(stream, array)
    except OSError as error:
        logger.warning(
            "features are not kept for a later run, which will compute them again: %s", error
        )


def load_features(
    path: Path, count: int, views: int, room: float = math.inf
) -> torch.Tensor | None:
    """The (``count``, ``views``, D) features in a file, or None if it is not there or damaged.

    More than ``room`` bytes stay there, mapped.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            check_npy_size(stream, path.stat().st_size)
        # Copy-on-write, because torch wants writable memory. np.load would take archives, too.
        array: np.ndarray = np.lib.format.open_memmap(path, mode="c")
        if array.ndim != 3 or array.shape[:2] != (count, views) or array.dtype != np.float32:
            raise ValueError(f"it holds {array.dtype} {array.shape}")
        array = array if array.nbytes > room else np.array(array)
    except Exception as error:  # whatever a damaged header leads numpy to
        logger.warning("%s is damaged (%s); computing the features again", path, error)
        return None
    logger.info("features found in %s", path)
    return torch.from_numpy(array)


class FeatureStore:
    """Makes images and features and keeps them: the same crops are never computed twice.

    Args:
        height, width, mean, std: the network's input, in pixels, and its normalisation.
        device: where features are computed and kept.
        cache_dir, image_cache_dir: where features and decoded images are kept between runs;
            ``""`` keeps none.
        memory_share: see :class:`ImageBank`; features that would take more of the free memory are
            left in their files, if they have some.
        most_bytes: of features in memory; beyond, those not asked for longest are forgotten (the
            last asked for stay, however large).
    """

    def __init__(
        self, height: int, width: int, mean: Sequence[float], std: Sequence[float],
        device: torch.device | str = "cpu", cache_dir: str | Path = "",
        image_cache_dir: str | Path = "", memory_share: float = 0.5, most_bytes: int = MOST_BYTES,
    ) -> None:
        self.size, self.mean, self.std = (height, width), tuple(mean), tuple(std)
        self.device, self.cache_dir = torch.device(device), cache_dir
        self.memory_share = memory_share
        self._shared_images = bool(image_cache_dir)
        self._bank = partial(
            ImageBank, device=self.device, cache_dir=image_cache_dir, memory_share=memory_share
        )
        self._images: dict[_Name, ImageBank] = {}
        self._keys: dict[_Name, str] = {}
        self._features: dict[str, torch.Tensor] = {}  # the last asked for is the last
        self._most_bytes = most_bytes

    @classmethod
    def of(cls, spec: InputSpec, device: torch.device | str = "cpu", **more: Any) -> FeatureStore:
        """A store of what a model takes; ``more`` are the other arguments."""
        return cls(spec.height, spec.width, spec.norm_mean, spec.norm_std, device, **more)

    def input_spec(self) -> InputSpec:
        """What networks are given from here."""
        return InputSpec.make(*self.size, self.mean, self.std)

    def _name(self, records: ImageRecords, tta: str) -> _Name:
        height, width = ten_crop_size(*self.size) if tta == "ten_crop" else self.size
        return records.paths, height, width

    def _views(self, tta: str) -> tuple[View, ...]:
        return ten_crop_views(*self.size) if tta == "ten_crop" else flip_views(tta == "flip")

    def _key(self, name: _Name) -> str:
        if name not in self._keys:
            self._keys[name] = content_key(*name)
        return self._keys[name]

    def _decoded(self, name: _Name, **more: Any) -> ImageBank:
        return self._bank(*name, key=self._key(name) if self._shared_images else "", **more)

    def images(self, records: ImageRecords, label: str, tta: str = "none") -> ImageBank:
        """The decoded images of ``records``, enlarged for ``ten_crop``; made at the first call."""
        name = self._name(records, tta)
        if name not in self._images:
            # With a cache folder, the first process decodes for all of them.
            with distributed.rank_zero_first() if self._shared_images else nullcontext():
                self._images[name] = self._decoded(name, label=label)
        return self._images[name]

    def try_images(
        self, records: ImageRecords, label: str, least_side: int = 1
    ) -> list[tuple[str, str]]:
        """Decodes what can be decoded, for :meth:`images` of just those records.

        Returns:
            (path, reason) of each image that cannot be decoded or has a side of fewer than
            ``least_side`` pixels.
        """
        name, failures = self._name(records, "none"), []
        try:
            bank = self._decoded(name, label=label, least_side=least_side)
        except CorruptImageError as error:
            failures, bad = error.failures, {path for path, _ in error.failures}
            good = [n for n, path in enumerate(records.paths) if path not in bad]
            if not good:
                return failures
            # Decoded to a file they are decoded again: its name is a hash of what it holds.
            pixels = error.pixels
            if pixels is not None:
                for n, row in enumerate(good):  # in place: there may be no room for two of them
                    pixels[n] = pixels[row]
                pixels = pixels[: len(good)]
            name = (tuple(records.paths[n] for n in good), *self.size)
            bank = self._decoded(name, label=label, pixels=pixels)
        self._images[name] = bank
        return failures

    def features(
        self, model: EmbAE | Trunk, records: ImageRecords, label: str, tta: str = "flip",
        keep: bool = True, cameras: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Trunk features (N, V, D) of ``records``: from memory, from the cache folder, or computed.

        Args:
            model: whose trunk it is; one with statistics by camera uses those of each record's
                camera, by name. A trunk alone serves where it knows no cameras.
            tta: ``none`` (V = 1), ``flip`` (V = 2) or ``ten_crop`` (V = 10).
            keep: False for a trunk that is still learning, whose features serve once.
            cameras: what :meth:`cameras` says of them, where the caller has it already.

        Raises:
            ValueError: a trunk that knows cameras, without the model that knows their names.
        """
        trunk = model.trunk if isinstance(model, EmbAE) else model
        numbers = ""
        if not knows_cameras(trunk):
            cameras = None
        elif not isinstance(model, EmbAE):
            raise ValueError("a trunk with statistics by camera needs its model, which knows "
                             "the names")
        else:
            cameras = self.cameras(model, records, label) if cameras is None else cameras
            numbers = hashlib.sha256(cameras.numpy().tobytes()).hexdigest()
        if not keep:
            return self._extract(trunk, records, label, tta, cameras)
        content, views = self._key(self._name(records, tta)), self._views(tta)
        name = f"{trunk_fingerprint(trunk)} {content} {views} {self.mean} {self.std}"
        key = hashlib.sha256(f"{name}{numbers}".encode()).hexdigest()[:24]
        if key not in self._features:
            path = Path(self.cache_dir) / f"features-{key}.npy" if self.cache_dir else None
            read = partial(load_features, count=len(records), views=len(views))
            features = None if path is None else read(path, room=self._room())
            missing = distributed.any_rank(features is None)
            if features is None or missing:
                features = self._extract(trunk, records, label, tta, cameras)
                if path is not None and distributed.rank() == 0:
                    keep_array(path, features.cpu().numpy())
                if path is not None and features.nbytes > self._room():
                    kept = read(path, room=0)
                    features = features if kept is None else kept
            self._features[key] = features.to(self.device)
        return self._asked_for(key)

    def _asked_for(self, key: str) -> torch.Tensor:
        """The features of that name, which become the last; the first ones go if all are many."""
        found = self._features[key] = self._features.pop(key)
        held = sum(features.nbytes for features in self._features.values())
        for other in list(self._features)[:-1]:
            if held <= self._most_bytes:
                break
            held -= self._features.pop(other).nbytes
        return found

    def _room(self) -> float:
        """Bytes of memory that features may take; more of them are read from their file."""
        return self.memory_share * float(psutil.virtual_memory().available)

    @torch.inference_mode()
    def cameras(self, model: EmbAE, records: ImageRecords, label: str) -> torch.Tensor:
        """(N,) the model's numbers of the records' cameras: by name, else guessed."""
        numbers = model.camera_numbers(records.camera_names())
        absent = (numbers < 0).nonzero().flatten()
        if model.guess is not None and len(absent):
            bank = self.images(records, label)
            guessed = [
                model.guess(normalise(bank.batch(block), self.mean, self.std)).cpu()
                for block in torch.split(absent, GUESS_BLOCK)
            ]
            numbers[absent] = torch.cat(guessed)
        return numbers

    def _extract(
        self, trunk: Trunk, records: ImageRecords, label: str, tta: str,
        cameras: torch.Tensor | None,
    ) -> torch.Tensor:
        """:func:`extract_features`, each rank working on its share of the images."""
        parts = distributed.shards(len(records), block_size(self.device))
        start, stop = parts[distributed.rank()]
        views, name = self._views(tta), self._name(records, tta)
        if distributed.size() == 1 or name in self._images:
            bank = self.images(records, label, tta)
        elif start < stop:  # decode no more than this share
            bank = self._bank(name[0][start:stop], *name[1:], cache_dir="", label=label)
            cameras = None if cameras is None else cameras[start:stop]
            start, stop = 0, stop - start
        else:
            mine = torch.empty(0, len(views), trunk.feature_dim, device=self.device)
            return distributed.gather_rows(mine, parts)
        how = (views, self.size, self.mean, self.std, (start, stop), cameras)
        return distributed.gather_rows(extract_features(trunk, bank, *how), parts)

    def release_images(self) -> None:
        """Forgets decoded images; features stay."""
        self._images.clear()
