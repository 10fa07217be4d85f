"""WARD: 70 people seen by 3 cameras, which torchreid has no loader for."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from embae_plugin.torchreid_bridge import ImageDataset
from embae_plugin.torchreid_bridge.acquisition import missing_data_error
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Counts

logger = logging.getLogger(__name__)

NAME = re.compile(r"(\d{4})(\d{4})(\d{4})\.png$", re.IGNORECASE)
WardItem = tuple[str, int, int]
"""torchreid's (path, person, camera): the person as in the name, the camera from 0."""


class WARD(ImageDataset):
    """WARD (Martinel and Micheloni, CVPR Workshops 2012): 4,786 images of 128 x 48.

    The images lie in ``<root>/ward/``, or in a folder inside it, and are called
    ``PPPPCCCCNNNN.png``: person, camera and image, four digits each.

    There is no official split between training and test people. With ``combineall=True``
    every image is for training, as when WARD is one of several sources. Otherwise half of the
    people are (see :func:`split_people`), and of the others one image for each person and
    camera is a query and the rest is the gallery.

    Args:
        root: folder that holds the folder ``ward``.
        split_id: which random halves, 0, 1, 2, ...
        kwargs: torchreid's (``mode``, ``transform``, ``combineall``, ``verbose``, ...).

    Raises:
        FileNotFoundError: there is no such folder; says how to get the data.
        ValueError: no file in it is named as above, fewer than two people have been seen, the
            test people have no gallery, or ``split_id`` is negative.
    """

    dataset_dir = "ward"

    def __init__(self, root: str = "", split_id: int = 0, **kwargs: Any) -> None:
        if split_id < 0:
            raise ValueError(f"split_id of WARD is {split_id}, expected 0 or more")
        self.root = str(Path(root).expanduser().absolute())
        folder = find_folder(Path(self.root))
        self.dataset_dir = str(folder)
        images = ward_items(folder)
        people = sorted({person for _, person, _ in images})
        found = Counts(len(images), len(people), len({camid for *_, camid in images}))
        published = SOURCES["ward"].published["all"]
        if found != published:
            logger.warning("%s has %s, but WARD has %s", folder, found, published)
        if len(people) < 2:
            raise ValueError(
                f"{folder} has images of person {people[0]} only; training and testing need two "
                f"people at least, and WARD has {published.ids}"
            )
        labels = {person: n for n, person in enumerate(sorted(split_people(people, split_id)))}
        train = [(path, labels[pid], camid) for path, pid, camid in images if pid in labels]
        query, gallery = query_and_gallery([item for item in images if item[1] not in labels])
        if not gallery:
            raise ValueError(
                f"{folder} has one image at most for each test person and camera, which leaves "
                f"no gallery; WARD has {published.images} images"
            )
        super().__init__(train, query, gallery, **kwargs)


def split_people(people: list[int], split_id: int) -> set[int]:
    """The training half (rounded down) of ``people``, by a permutation seeded with the id."""
    order = np.random.default_rng(split_id).permutation(len(people))
    return {people[k] for k in order[: len(people) // 2].tolist()}


def query_and_gallery(images: list[WardItem]) -> tuple[list[WardItem], list[WardItem]]:
    """Splits test images, sorted by name: the first one of each person and camera is a query.

    People without any gallery image are left out altogether: no query could be scored.
    """
    first = {item[1:]: item for item in reversed(images)}
    gallery = [item for item in images if item is not first[item[1:]]]
    known = {person for _, person, _ in gallery}
    return [item for item in reversed(first.values()) if item[1] in known], gallery


def find_folder(root: Path) -> Path:
    """The folder with WARD's images below ``root``; raises FileNotFoundError with advice."""
    places = [path for path in root.glob("*") if path.name.lower() == "ward" and path.is_dir()]
    if not places:
        raise missing_data_error("ward", root, str(root / "ward"))
    folder = max(places, key=lambda path: path.name == "ward")
    for _ in range(3):
        entries = list(folder.iterdir())
        inside = [e for e in entries if e.is_dir() and not e.name.startswith((".", "__"))]
        if len(inside) != 1 or any(NAME.fullmatch(entry.name) for entry in entries):
            break
        folder = inside[0]
    return folder


def ward_items(folder: Path) -> list[WardItem]:
    """All images in ``folder`` named like WARD's, sorted by name.

    Other files are ignored and counted in the log; raises ValueError if none fits.
    """
    images, others = [], []
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_file()):
        match = NAME.fullmatch(name)
        if match and int(match[2]):
            images.append((str(folder / name), int(match[1]), int(match[2]) - 1))
        else:
            others.append(name)
    some = f", e.g. {others[0]}" if others else ""
    if not images:
        raise ValueError(
            f"none of the {len(others)} files in {folder} is named PPPPCCCCNNNN.png (person, "
            f"camera from 1, image: four digits each){some}"
        )
    if others:
        logger.warning("%s: %d files ignored%s", folder, len(others), some)
    return images
