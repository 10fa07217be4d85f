"""What is known of a set of crops: where each lies, who is on it, which camera took it.

The labelled sources and the unlabelled target are different values of one type: the target's
records carry no identities at all (``pids is None``), so that nothing behind this point could
learn from them even by mistake.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from yacs.config import CfgNode

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.settings.config import zoo_kwargs
from embae_plugin.torchreid_bridge.manager_items import Item

UNKNOWN = "unknown"  # stands for a camera that a model has never seen, or that nobody can name


@dataclass(frozen=True)
class ImageRecords:
    """N crops. ``camids`` are only unique within a dataset; :meth:`groups` numbers cameras.

    Attributes:
        paths: N file names.
        camids: (N,) int64, the camera within its dataset.
        dsetids: (N,) int64, which dataset of the run.
        pids: (N,) int64 identities, or None where they are unknown or must not be seen.
        cameras: N names of cameras, by which models know them; None where the numbers are names.
    """

    paths: tuple[str, ...]
    camids: np.ndarray
    dsetids: np.ndarray
    pids: np.ndarray | None = None
    cameras: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def from_items(cls, items: Sequence[Item], datasets: Sequence[str] = ()) -> ImageRecords:
        """From torchreid's tuples (path, pid, camid, dsetid).

        Args:
            datasets: names of the datasets by dsetid; camera 0 of market1501 is then the camera
                ``market1501:0``. One name stands for all items.
        """
        numbers = np.array([item[1:4] for item in items], dtype=np.int64).reshape(-1, 3)
        pids, camids, dsetids = numbers.T.copy()
        cameras = None
        if datasets:
            of = datasets[0] if len(datasets) == 1 else None
            cameras = tuple(f"{of or datasets[item[3]]}:{item[2]}" for item in items)
        return cls(tuple(str(item[0]) for item in items), camids, dsetids, pids, cameras)

    def camera_names(self) -> tuple[str, ...]:
        """The name of each crop's camera."""
        return tuple(map(str, self.camids.tolist())) if self.cameras is None else self.cameras

    def camera_table(self) -> tuple[str, ...]:
        """The name of each camera number, 0 to the highest; of those without a crop, too."""
        names = {int(n): name for n, name in zip(self.camids, self.camera_names(), strict=True)}
        absent = "" if self.cameras is None else "no crop of camera "
        return tuple(names.get(n, f"{absent}{n}") for n in range(max(names, default=-1) + 1))

    def rows(self, index: np.ndarray) -> ImageRecords:
        """The crops numbered in ``index``, in that order."""
        return ImageRecords(
            tuple(self.paths[i] for i in index), self.camids[index], self.dsetids[index],
            None if self.pids is None else self.pids[index],
            None if self.cameras is None else tuple(self.cameras[i] for i in index),
        )

    def unlabelled(self) -> ImageRecords:
        """The same crops without identities."""
        return replace(self, pids=None)

    def unnamed(self) -> ImageRecords:
        """The same crops as if nobody knew which camera took them."""
        return replace(self, cameras=(UNKNOWN,) * len(self))

    def fingerprint(self) -> str:
        """A name for these crops: a hash over names, sizes in bytes and labels, in order.

        Nothing is read. Names count from the folder that all have in common, so that a data set
        may be moved; a file that is missing has its own mark.
        """
        try:
            folder = os.path.commonpath({os.path.dirname(path) for path in self.paths})
        except ValueError:  # none at all, or some absolute and some not
            folder = ""
        total = hashlib.blake2b(digest_size=8)
        for path in self.paths:
            try:
                size = os.stat(path).st_size
            except (OSError, ValueError):  # gone, or no name that a file can have
                size = -1
            name = path[len(folder) :].encode(errors="surrogateescape")
            total.update(b"%s\0%d\0" % (name, size))
        for column in (self.pids, self.camids, self.dsetids):
            total.update(b"none" if column is None else column.astype(np.int64).tobytes())
        return total.hexdigest()

    def groups(self, by: str) -> torch.Tensor:
        """Dense group numbers, 0 to G−1, in the order of (dataset, camera).

        Args:
            by: ``common`` (one group), ``dataset``, or ``camera`` (each camera of each dataset).

        Returns:
            (N,) int64.
        """
        columns = {"common": [], "dataset": [self.dsetids], "camera": [self.dsetids, self.camids]}
        if by not in columns:
            raise ValueError(f"groups by {by!r}: must be common, dataset or camera")
        keys = np.stack([np.zeros(len(self), np.int64), *columns[by]], axis=1)
        numbers = np.unique(keys, axis=0, return_inverse=True)[1]
        return torch.from_numpy(numbers.reshape(-1).astype(np.int64))


def queries_and_gallery(
    pids: Sequence[str] | NDArray[np.str_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which crops may be queries, and which may be in the gallery, by their identities as text.

    Nobody is on a crop of "" (unknown) or "-1" (junk, as in Market-1501): it is neither. "0" are
    distractors, people who have no name: wrong answers in the gallery, but never queries, and no
    matches of one another.

    Returns:
        two (N,) masks.
    """
    names = np.asarray(pids, dtype=np.str_)
    gallery = (names != "") & (names != "-1")
    return gallery & (names != "0"), gallery


@dataclass
class ReIDData:
    """Everything one run reads: labelled sources, an unlabelled target, its query and gallery.

    ``train_loader`` is torchreid's own loader; it is set only where the transforms asked for
    need it (see :mod:`embae_plugin.data.augment`).
    """

    sources: list[str]
    source: ImageRecords
    target: str = ""
    target_train: ImageRecords | None = None
    query: ImageRecords | None = None
    gallery: ImageRecords | None = None
    train_loader: Any = None
    test_loader: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_datamanager(cls, datamanager: Any) -> ReIDData:
        """Reads a torchreid ``ImageDataManager``; the target's identities stay behind."""
        if isinstance(datamanager, cls):
            return datamanager
        target = datamanager.targets[0] if datamanager.targets else ""
        data = cls(
            list(datamanager.sources),
            ImageRecords.from_items(bridge.train_items(datamanager), datamanager.sources),
            target, train_loader=datamanager.train_loader, test_loader=datamanager.test_loader,
        )
        if target:
            data.query, data.gallery = (
                ImageRecords.from_items(items, [target])
                for items in bridge.test_items(datamanager, target)
            )
        if target and target not in data.sources:
            items = bridge.target_train_items(datamanager)
            data.target_train = ImageRecords.from_items(items, [target]).unlabelled()
        return data


def merge_sources(parts: Iterable[Sequence[Item]], datasets: Sequence[str] = ()) -> ImageRecords:
    """Several datasets as one: identities are kept apart, the i-th dataset's dsetid is i."""
    merged: list[Item] = []
    first_pid = 0
    for dsetid, items in enumerate(parts):
        numbers = {pid: n for n, pid in enumerate(sorted({item[1] for item in items}), first_pid)}
        merged += [(path, numbers[pid], camid, dsetid) for path, pid, camid, _ in items]
        first_pid += len(numbers)
    return ImageRecords.from_items(merged, datasets)


def load_data(cfg: CfgNode) -> ReIDData:
    """Lists every image that the configuration names, through torchreid's dataset zoo.

    Sources are used whole where ``data.combineall`` is set (the paper trains on all of a
    source's training images); the target's training split is taken without identities.

    Raises:
        FileNotFoundError: a dataset's folder is missing; says which was looked for.
        ValueError: an unknown dataset name.
    """
    options = {"root": cfg.data.root, "split_id": cfg.data.split_id, **zoo_kwargs(cfg)}
    parts = [
        bridge.dataset_split(name, mode="train", combineall=cfg.data.combineall, **options)
        for name in cfg.data.sources
    ]
    data = ReIDData(sources=list(cfg.data.sources), source=merge_sources(parts, cfg.data.sources))
    if cfg.data.targets:
        data.target = target = cfg.data.targets[0]
        data.query, data.gallery = (
            ImageRecords.from_items(bridge.dataset_split(target, mode=mode, **options), [target])
            for mode in ("query", "gallery")
        )
        if target not in data.sources:
            items = bridge.dataset_split(target, mode="train", **options)
            data.target_train = ImageRecords.from_items(items, [target]).unlabelled()
    return data
