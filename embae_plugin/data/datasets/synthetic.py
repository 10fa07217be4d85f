"""The built-in cameras as torchreid datasets; drawn under the root on first use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from embae_plugin.data.datasets.catalog import find_spec
from embae_plugin.data.datasets.generation import generate, read_metadata
from embae_plugin.data.datasets.shots import Shot, Studio
from embae_plugin.data.datasets.ward import query_and_gallery, ward_items
from embae_plugin.torchreid_bridge import ImageDataset

_MARKET_NAME = re.compile(r"(\d{4})_c(\d)s1_\d{6}_00\.jpg")
_MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

RawItem = tuple[str, int, int]
"""(path, person number, 0-based camera)."""


class BuiltInCameras(ImageDataset):
    """A procedural multi-camera pedestrian data set; the subclasses name which one.

    Args:
        root: folder that holds, or will hold, the set's own folder ``dataset_dir``.
        scale, seed: as for :func:`~embae_plugin.data.datasets.generation.generate`. Left out,
            a set that is there is taken as it is, and a new one gets scale 1 and seed 0.
        kwargs: torchreid's (``mode``, ``transform``, ``combineall``, ``verbose``, ...).

    Raises:
        ValueError: the folder holds something else, or the set of another generator version,
            scale or seed.
        FileNotFoundError: images are missing from the folder.
    """

    # Gallery pictures of people who are never asked for.
    _junk_pids = [0]  # noqa: RUF012 (torchreid's own way of saying it)
    dataset_dir = ""

    def __init__(
        self, root: str = "", scale: float | None = None, seed: int | None = None, **kwargs: Any
    ) -> None:
        name = type(self).dataset_dir
        folder = Path(root).expanduser().absolute() / name
        if folder.is_dir() and any(folder.iterdir()):
            metadata = read_metadata(folder, scale, seed)
        else:
            generate(name, root, 1.0 if scale is None else scale, seed or 0)
            metadata = read_metadata(folder)
        self.root, self.dataset_dir = str(Path(root).expanduser().absolute()), str(folder)
        subsets = read_subsets(folder, find_spec(name).layout, int(str(metadata["train_ids"])))
        check_counts(folder, {key: len(items) for key, items in subsets.items()}, metadata)
        train = relabelled(subsets["train"])
        super().__init__(train, subsets["query"], subsets["gallery"], **kwargs)


class SyntheticSourceA(BuiltInCameras):
    """160 training and 60 test people, 4 cameras outdoors in summer; Market-like layout."""

    dataset_dir = "synthetic_source_a"


class SyntheticSourceB(BuiltInCameras):
    """70 training and 30 test people, 3 cameras in an office; WARD-like layout."""

    dataset_dir = "synthetic_source_b"


class SyntheticTarget(BuiltInCameras):
    """150 training and 100 test people, 6 cameras with strong casts; Market-like layout."""

    dataset_dir = "synthetic_target"


def read_subsets(folder: Path, layout: str, train_ids: int) -> dict[str, list[RawItem]]:
    """The images of a built-in set by subset, each sorted by path."""
    if layout == "ward":
        images = ward_items(folder)
        test = [image for image in images if image.person > train_ids]
        query, gallery = query_and_gallery(test)
        train = [image.item for image in images if image.person <= train_ids]
        return {"train": train, "query": query, "gallery": gallery}
    return {key: _market_items(folder / sub) for key, sub in _MARKET_FOLDERS.items()}


def _market_items(folder: Path) -> list[RawItem]:
    items = []
    for path in sorted(folder.glob("*.jpg")):
        match = _MARKET_NAME.fullmatch(path.name)
        if match:
            items.append((str(path), int(match[1]), int(match[2]) - 1))
    return items


def relabelled(items: list[RawItem]) -> list[RawItem]:
    """The same items with person numbers 0 .. n-1 in increasing order."""
    labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in items}))}
    return [(path, labels[pid], camid) for path, pid, camid in items]


def check_counts(folder: Path, found: dict[str, int], metadata: dict[str, object]) -> None:
    """Raises FileNotFoundError if ``folder`` has other numbers of images than it should."""
    if found != metadata["counts"]:
        raise FileNotFoundError(
            f"{folder} is damaged: it has {found} images, but was drawn with "
            f"{metadata['counts']}. Remove the folder and it will be drawn anew."
        )


def contact_sheet(
    name: str, people: int = 8, seed: int = 0, pictures: int = 1, first: int = 1
) -> Image.Image:
    """A picture with one row for each person and one column for each camera of a built-in set.

    Args:
        name: of the set; drawn in memory, nothing is read or written.
        people: rows. first: number of the first person.
        pictures: neighbouring pictures of each person and camera.
        seed: of the set.

    Raises:
        ValueError: an unknown name, or fewer than one person or picture.
    """
    spec = find_spec(name)
    if people < 1 or pictures < 1 or first < 1:
        raise ValueError(f"people {people}, pictures {pictures}, first {first} must be at least 1")
    studio, gap = Studio(spec, seed), 2
    width, height = spec.size[0] + gap, spec.size[1] + gap
    sheet = Image.new("RGB", (len(spec.cameras) * pictures * width - gap, people * height - gap))
    for row in range(people):
        for camera in range(len(spec.cameras)):
            for step in range(pictures):
                image = studio.take(Shot("gallery", first + row, first + row, camera, step))
                sheet.paste(image, ((camera * pictures + step) * width, row * height))
    return sheet
