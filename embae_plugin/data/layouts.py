"""Counts what lies in a data set's folder, from file names alone; nothing is ever written there.

torchreid's own loaders make splits and extract images when they are used, so they can't be asked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
from scipy.io import loadmat

from embae_plugin.data.datasets.ward import NAME, find_folder
from embae_plugin.torchreid_bridge.known_datasets import Counts

_PEOPLE_OF_CUHK03 = 1467
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


class Content(NamedTuple):
    """What was found: counts for each part, things to be put right, and things worth knowing."""

    parts: dict[str, Counts]
    problems: Sequence[str]
    notes: Sequence[str] = ()


Label = tuple[int, int]
"""(person, camera) of one image."""


def count(labels: Iterable[Label], nobody: tuple[int, ...] = ()) -> Counts:
    """Counts of images; the ``nobody`` people are images, but no identities."""
    images = list(labels)
    people = {pid for pid, _ in images}.difference(nobody)
    return Counts(len(images), len(people), len({camera for _, camera in images}))


def listed(
    folder: Path, ending: str, pattern: str | re.Pattern[str]
) -> tuple[list[Label], list[str]]:
    """(person, camera) of each image in ``folder``, and what is wrong with files there.

    A pattern with one group gives the person only, and camera 0.
    Raises FileNotFoundError if the folder is not there.
    """
    labels: list[Label] = []
    misnamed, empty = [], []
    for entry in os.scandir(folder):
        match = re.match(pattern, entry.name)
        if not entry.name.lower().endswith(ending):
            continue
        if match is None:
            misnamed.append(entry.name)
            continue
        person, camera = (*match.groups(), 0)[:2]
        labels.append((int(person), int(camera)))
        if not entry.is_file() or not entry.stat().st_size:
            empty.append(entry.name)
    return labels, [
        f"{folder}: {len(names)} *{ending} {what}, e.g. {min(names)}"
        for what, names in (("named otherwise than expected", misnamed), ("empty", empty)) if names
    ]


def stale_splits(path: Path) -> list[str]:
    """What is wrong with a split file of torchreid's (it holds absolute paths)."""
    if not path.exists():
        return []
    try:
        first = json.loads(path.read_text(encoding="utf-8"))[0]["train"][0][0]
    except _UNREADABLE as error:
        what = type(error).__name__
        return [f"{path} can't be read ({what}); delete it, torchreid makes it anew"]
    if Path(first).exists():
        return []
    return [f"{path} is of a folder that was moved ({first} is not there); delete it"]


def _read_market(folder: Path, inner: str, junk: int | None = None) -> Content:
    """Market-1501, or with no ``junk`` and no distractors, DukeMTMC-reID."""
    nobody = () if junk is None else (0,)
    base = folder / inner
    if junk is not None and not base.is_dir() and (folder / "query").is_dir():
        base = folder  # torchreid takes Market-1501 without its inner folder, too.
    parts, problems = {}, []
    names = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for part, name in names.items():
        labels, wrong = listed(base / name, ".jpg", r"(-?\d+)_c(\d)")
        parts[part] = count((label for label in labels if label[0] != junk), nobody)
        problems += wrong
    return Content(parts, problems)


def _read_viper(folder: Path) -> Content:
    """VIPeR: two folders, one image of each person in each; pairs go by sorted order."""
    (one, wrong), (other, wrong_too) = (
        listed(folder / "VIPeR" / name, ".bmp", r"(\d+)_") for name in ("cam_a", "cam_b")
    )
    problems = [*stale_splits(folder / "splits.json"), *wrong, *wrong_too]
    if alone := {pid for pid, _ in one} ^ {pid for pid, _ in other}:
        problems.append(f"{len(alone)} people are in one camera only, e.g. person {min(alone)}")
    return Content({"all": count([*one, *((pid, 1) for pid, _ in other)])}, problems)


def _read_cuhk01(folder: Path) -> Content:
    """CUHK01: images 1 and 2 of each person are one camera view, 3 and 4 the other."""
    if not (folder / "campus").is_dir() and (folder / "CUHK01.zip").is_file():
        raise FileNotFoundError(f"{folder / 'CUHK01.zip'} has not been unpacked to campus/ yet")
    labels, problems = listed(folder / "campus", ".png", r"(\d{4})(\d{3})")
    views = ((pid, (image - 1) // 2) for pid, image in labels)
    return Content({"all": count(views)}, problems + stale_splits(folder / "splits.json"))


def _read_ward(folder: Path) -> Content:
    """WARD: the images lie in the folder, or in a single one inside it."""
    labels, problems = listed(find_folder(folder.parent), ".png", NAME)
    return Content({"all": count(labels)}, problems)


def _read_cuhk03(folder: Path) -> Content:
    """CUHK03: the 767/700 split as its two files say; images are counted once extracted.

    The release itself is opened only to see how many people it holds.
    """
    release = folder / "cuhk03_release" / "cuhk-03.mat"
    names = {"detected": "detected", "labelled": "labeled"}
    files = {kind: folder / f"cuhk03_new_protocol_config_{n}.mat" for kind, n in names.items()}
    if missing := [str(path) for path in (release, *files.values()) if not path.is_file()]:
        raise FileNotFoundError(f"missing: {', '.join(missing)}")
    parts: dict[str, Counts] = {}
    problems, notes = _release_problems(release), []
    for kind, path in files.items():
        try:
            split = loadmat(str(path))
            labels, cells = (split[key].ravel() for key in ("labels", "filelist"))
            expected = [str(cell[0]) for cell in cells]
            for part in ("train", "query", "gallery"):
                chosen = (split[f"{part}_idx"].ravel().astype(int) - 1).tolist()
                pairs = ((int(labels[row]), int(expected[row].split("_")[2])) for row in chosen)
                parts[f"{kind} {part}"] = count(pairs)
        except Exception as error:  # scipy raises whatever a damaged file leads it to.
            problems.append(f"{path} can't be read ({error}); get it again")
            continue
        images = folder / f"images_{names[kind]}"
        if not images.is_dir():
            notes.append(f"{kind} images: torchreid extracts them on first use (minutes)")
        elif gone := set(expected).difference(os.listdir(images)):
            problems.append(f"{images} lacks {len(gone)} images of the split, e.g. {min(gone)}")
    for path in sorted(folder.glob("splits_*.json")):
        problems += stale_splits(path)
    return Content(parts, problems, notes)


def _release_problems(path: Path) -> list[str]:
    """Whether the release opens and holds everybody; reads a few hundred bytes of its 1.9 GB."""
    try:
        with h5py.File(path, "r") as file:
            for kind in ("detected", "labeled"):
                people = sum(file[pair].shape[1] for pair in file[kind][0])
                if people != _PEOPLE_OF_CUHK03:
                    return [f"{path} has {people} {kind} people, not {_PEOPLE_OF_CUHK03}"]
    except _UNREADABLE as error:
        return [f"{path} can't be read ({error}); get it again"]
    return []


READERS: dict[str, Callable[[Path], Content]] = {
    "market1501": partial(_read_market, inner="Market-1501-v15.09.15", junk=-1),
    "dukemtmcreid": partial(_read_market, inner="DukeMTMC-reID"),
    "cuhk01": _read_cuhk01,
    "cuhk03": _read_cuhk03,
    "viper": _read_viper,
    "ward": _read_ward,
}
