"""WARD: 70 people seen by 3 cameras, which torchreid has no loader for."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embae_plugin.torchreid_bridge import ImageDataset
from embae_plugin.torchreid_bridge.acquisition import missing_data_error

logger = logging.getLogger(__name__)

EXPECTED = {"people": 70, "cameras": 3, "images": 4786}
_NAME = re.compile(r"(\d{4})(\d{4})(\d{4})\.png", re.IGNORECASE)
_DEPTH = 3


class WardImage(NamedTuple):
    """One image: person and number as in its name, camid counted from 0."""

    path: str
    person: int
    camid: int
    number: int

    @property
    def item(self) -> tuple[str, int, int]:
        """torchreid's (path, pid, camid)."""
        return self.path, self.person, self.camid


class WARD(ImageDataset):
    """WARD.

    Reference:
        Martinel and Micheloni. Re-identify people in wide area camera network. CVPR Workshops
        2012.

    Dataset statistics:
        - identities: 70.
        - images: 4,786 of 128 x 48.
        - cameras: 3.

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
        check_statistics(folder, images)
        people = sorted({image.person for image in images})
        if len(people) < 2:
            raise ValueError(
                f"{folder} has images of person {people[0]} only; training and testing need two "
                f"people at least, and WARD has {EXPECTED['people']}"
            )
        chosen = split_people(people, split_id)
        labels = {person: label for label, person in enumerate(sorted(chosen))}
        train = [
            (image.path, labels[image.person], image.camid)
            for image in images
            if image.person in chosen
        ]
        query, gallery = query_and_gallery([i for i in images if i.person not in chosen])
        if not gallery:
            raise ValueError(
                f"{folder} has one image at most for each test person and camera, which leaves "
                f"no gallery; WARD has {EXPECTED['images']} images"
            )
        super().__init__(train, query, gallery, **kwargs)


def split_people(people: list[int], split_id: int) -> set[int]:
    """The training half (rounded down) of ``people``, by a permutation seeded with the id."""
    order = np.random.default_rng(split_id).permutation(len(people))
    return {people[k] for k in order[: len(people) // 2].tolist()}


def query_and_gallery(
    images: list[WardImage],
) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """Splits test images: the first one of each person and camera is a query.

    People without any gallery image are left out altogether: no query could be scored.
    """
    query: list[WardImage] = []
    gallery: list[WardImage] = []
    seen: set[tuple[int, int]] = set()
    for image in sorted(images, key=lambda i: (i.person, i.camid, i.number)):
        key = (image.person, image.camid)
        (gallery if key in seen else query).append(image)
        seen.add(key)
    known = {image.person for image in gallery}
    return [i.item for i in query if i.person in known], [i.item for i in gallery]


def find_folder(root: Path) -> Path:
    """The folder with WARD's images below ``root``; raises FileNotFoundError with advice."""
    candidates = []
    if root.is_dir():
        entries = (e.name for e in os.scandir(root) if e.is_dir())
        candidates = sorted((n for n in entries if n.lower() == "ward"), key=lambda n: n != "ward")
    if not candidates:
        raise missing_data_error("ward", root, str(root / "ward"))
    folder = root / candidates[0]
    for _ in range(_DEPTH):
        entries_here = list(os.scandir(folder))
        folders = [e for e in entries_here if e.is_dir() and not e.name.startswith((".", "__"))]
        if any(_NAME.fullmatch(e.name) for e in entries_here) or len(folders) != 1:
            break
        folder = Path(folders[0].path)
    return folder


def ward_items(folder: Path) -> list[WardImage]:
    """All images in ``folder`` named like WARD's, sorted by name.

    Other files are ignored and counted in the log; raises ValueError if none fits.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    images, others = [], []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or int(match[2]) == 0:
            others.append(name)
            continue
        person, camera, number = (int(digits) for digits in match.groups())
        images.append(WardImage(str(folder / name), person, camera - 1, number))
    if not images:
        some = f", e.g. {others[0]}" if others else ""
        raise ValueError(
            f"none of the {len(others)} files in {folder} is named PPPPCCCCNNNN.png (person, "
            f"camera from 1, image: four digits each){some}"
        )
    if others:
        # The metadata file of a built-in set in this layout is no surprise.
        level = logging.DEBUG if others == ["generator.json"] else logging.WARNING
        logger.log(level, "%s: %d files ignored, e.g. %s", folder, len(others), others[0])
    return images


def check_statistics(folder: Path, images: list[WardImage]) -> None:
    """Warns if the numbers differ from those published."""
    found = {
        "people": len({image.person for image in images}),
        "cameras": len({image.camid for image in images}),
        "images": len(images),
    }
    if found != EXPECTED:
        logger.warning("%s has %s, but WARD has %s", folder, found, EXPECTED)
