"""Reads the image lists and transforms out of torchreid's ImageDataManager.

An item is torchreid's tuple ``(path, pid, camid, dsetid)``. With several datasets, the numbers are
offset the way torchreid's own concatenation offsets them. Lists come sorted by dataset and path:
torchreid lists folders in the file system's order, which differs from machine to machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import ImageDataManager, ImageDataset

Item = tuple[str, int, int, int]

UNLABELLED = -1
"""The pid of every item of an unlabelled target."""

_TORCHREID_NAMES = {
    "RandomHorizontalFlip": "random_flip", "Random2DTranslation": "random_crop",
    "RandomPatch": "random_patch", "ColorJitter": "color_jitter", "RandomErasing": "random_erase",
}
_ALWAYS = {"Resize", "ToTensor", "Normalize"}


class ImageTransforms(TypedDict):
    """What an ImageDataManager does to an image."""

    transforms: list[str]  # torchreid's names of training augmentations, or names of classes
    height: int  # of the network's input, in pixels
    width: int
    norm_mean: tuple[float, ...]  # for each channel, of inputs in [0, 1]
    norm_std: tuple[float, ...]


def items_of(items: Sequence[Item]) -> list[Item]:
    """torchreid's tuples as plain (str, int, int, int), sorted by dataset and path."""
    plain = [(str(path), int(pid), int(camid), int(dsetid)) for path, pid, camid, dsetid in items]
    return sorted(plain, key=lambda item: (item[3], item[0]))


def train_items(datamanager: ImageDataManager) -> list[Item]:
    """Labelled training items of the manager's sources."""
    return items_of(datamanager.train_loader.dataset.train)


def target_train_items(datamanager: ImageDataManager) -> list[Item]:
    """Training items of the manager's targets, **without identities**: each pid is ``UNLABELLED``.

    Works whether or not the manager was built with ``load_train_targets``: every torchreid test
    set carries its dataset's training split along.
    """
    items: list[Item] = []
    if datamanager.train_loader_t is not None:
        items = datamanager.train_loader_t.dataset.train
    else:
        cameras = 0
        for number, name in enumerate(datamanager.targets):
            part = _own_train_items(datamanager.test_loader[name]["query"].dataset)
            items += [(path, pid, camid + cameras, number) for path, pid, camid, _ in part]
            cameras += len({camid for _, _, camid, _ in part})
    return [(path, UNLABELLED, camid, dsetid) for path, _, camid, dsetid in items_of(items)]


def test_items(datamanager: ImageDataManager, name: str) -> tuple[list[Item], list[Item]]:
    """Query and gallery items of the manager's target ``name``."""
    loaders = datamanager.test_loader[name]
    query, gallery = loaders["query"].dataset.query, loaders["gallery"].dataset.gallery
    return items_of(query), items_of(gallery)


test_items.__test__ = False  # type: ignore[attr-defined]  # the field's term, no test of pytest's


def transforms_of(datamanager: ImageDataManager) -> ImageTransforms:
    """The manager's image size, normalisation and augmentations."""
    [norm] = (s for s in datamanager.transform_te.transforms if type(s).__name__ == "Normalize")
    steps = [type(step).__name__ for step in datamanager.transform_tr.transforms]
    return ImageTransforms(
        transforms=[_TORCHREID_NAMES.get(name, name) for name in steps if name not in _ALWAYS],
        height=int(datamanager.height),
        width=int(datamanager.width),
        norm_mean=tuple(map(float, norm.mean)),
        norm_std=tuple(map(float, norm.std)),
    )


def _own_train_items(testset: ImageDataset) -> list[Item]:
    """The training split of a test set, without what ``combineall`` appended to it."""
    if not testset.combineall or testset._train_only:
        return list(testset.train)
    junk = set(testset._junk_pids)
    appended = sum(item[1] not in junk for item in [*testset.query, *testset.gallery])
    return list(testset.train[: len(testset.train) - appended])
