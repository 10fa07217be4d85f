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
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Counts

logger = logging.getLogger(__name__)

NAME = re.compile(r"(\d{4})(\d{4})(\d{4})\.png$", re.IGNORECASE)
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
        people = sorted({image.person for image in images})
        found = Counts(len(images), len(people), len({image.camid for image in images}))
        published = SOURCES["ward"].published["all"]
        if found != published:
            logger.warning("%s has %s, but WARD has %s", folder, found, published)
        if len(people) < 2:
            raise ValueError(
                f"{folder} has images of person {people[0]} only; training and testing need two "
                f"people at least, and WARD has {published.ids}"
            )
        labels = {person: n for n, person in enumerate(sorted(split_people(people, split_id)))}
        train = [(i.path, labels[i.person], i.camid) for i in images if i.person in labels]
        query, gallery = query_and_gallery([i for i in images if i.person not in labels])
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
    places = [path for path in root.glob("*") if path.name.lower() == "ward" and path.is_dir()]
    if not places:
        raise missing_data_error("ward", root, str(root / "ward"))
    folder = max(places, key=lambda path: path.name == "ward")
    for _ in range(_DEPTH):
        entries = list(folder.iterdir())
        inside = [e for e in entries if e.is_dir() and not e.name.startswith((".", "__"))]
        if len(inside) != 1 or any(NAME.fullmatch(entry.name) for entry in entries):
            break
        folder = inside[0]
    return folder


def ward_items(folder: Path) -> list[WardImage]:
    """All images in ``folder`` named like WARD's, sorted by name.

    Other files are ignored and counted in the log; raises ValueError if none fits.
    """
    images, others = [], []
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_file()):
        match = NAME.fullmatch(name)
        person, camera, number = map(int, match.groups()) if match else (0, 0, 0)
        if camera:
            images.append(WardImage(str(folder / name), person, camera - 1, number))
        else:
            others.append(name)
    some = f", e.g. {others[0]}" if others else ""
    if not images:
        raise ValueError(
            f"none of the {len(others)} files in {folder} is named PPPPCCCCNNNN.png (person, "
            f"camera from 1, image: four digits each){some}"
        )
    if others and others != ["generator.json"]:  # of a built-in set in this layout
        logger.warning("%s: %d files ignored%s", folder, len(others), some)
    return images
