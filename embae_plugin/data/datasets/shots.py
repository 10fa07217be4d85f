"""From a built-in set's description to its pictures: the plan, and the taking of each shot.

Every random number comes from a seed made of (seed, set, purpose, person, camera, picture),
so a picture does not depend on which process takes it, or on what was taken before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from embae_plugin.data.datasets.cameras import photograph
from embae_plugin.data.datasets.catalog import SetSpec
from embae_plugin.data.datasets.people import Person

_PERSON, _WALK, _PICTURE, _PLAN = 0, 2, 3, 4
_FIRST_DISTRACTOR = 100_000
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


@dataclass(frozen=True)
class Shot:
    """One picture to take.

    subset: "train", "query" or "gallery". person: from 1. pid: the same, but 0 for distractors.
    camera: 0-based. step: which picture of the walk past that camera, 0-based.
    """

    subset: str
    person: int
    pid: int
    camera: int
    step: int


def scaled(spec: SetSpec, scale: float) -> SetSpec:
    """``spec`` with ``scale`` times as many people (at least 4 to train on and 3 to test).

    Raises ValueError if ``scale`` is not in (0, 10].
    """
    if not 0.0 < scale <= 10.0:
        raise ValueError(f"scale of {spec.name} is {scale}, expected a number in (0, 10]")
    sizes = (round(n * scale) for n in (spec.train_ids, spec.test_ids, spec.distractors))
    train_ids, test_ids, distractors = sizes
    return replace(
        spec, train_ids=max(4, train_ids), test_ids=max(3, test_ids), distractors=distractors
    )


def plan(spec: SetSpec, seed: int) -> list[Shot]:
    """All pictures of a set: who is seen by which camera, how often, and for what."""
    shots: list[Shot] = []
    cameras = len(spec.cameras)
    for person in range(1, spec.train_ids + spec.test_ids + 1):
        rng = np.random.default_rng([seed, spec.index, _PLAN, person])
        seen = rng.random(cameras) < spec.seen
        seen[rng.permutation(cameras)[:2]] = True
        for camera in np.flatnonzero(seen).tolist():
            if person <= spec.train_ids:
                low, high = spec.train_images[camera]
                subsets = ["train"] * int(rng.integers(low, high + 1))
            else:
                low, high = spec.gallery_images
                subsets = ["query"] + ["gallery"] * int(rng.integers(low, high + 1))
            shots += [Shot(s, person, person, camera, step) for step, s in enumerate(subsets)]
    rng = np.random.default_rng([seed, spec.index, _PLAN, 0])
    for k, camera in enumerate(rng.integers(cameras, size=spec.distractors).tolist()):
        shots.append(Shot("gallery", _FIRST_DISTRACTOR + k, 0, camera, 0))
    return shots


def names(spec: SetSpec, shots: list[Shot]) -> Iterator[str]:
    """The path of each shot inside the set's folder."""
    counts: Counter[tuple[int, int]] = Counter()
    for shot in shots:
        counts[shot.pid, shot.camera] += 1
        pid, camera, number = shot.pid, shot.camera + 1, counts[shot.pid, shot.camera]
        ward = f"{pid:04d}{camera:04d}{number:04d}.png"
        market = f"{_FOLDERS[shot.subset]}/{pid:04d}_c{camera}s1_{number:06d}_00.jpg"
        yield ward if spec.layout == "ward" else market


def take(spec: SetSpec, seed: int, shot: Shot) -> Image.Image:
    """The picture of ``shot``, RGB, of the set's size."""
    person, walk, rng = (
        np.random.default_rng([seed, spec.index, purpose, shot.person, *more])
        for purpose, *more in ((_PERSON,), (_WALK, shot.camera), (_PICTURE, shot.camera, shot.step))
    )
    who, camera = Person(person, spec.wardrobe), spec.cameras[shot.camera]
    return photograph(who, camera, spec.size, shot.step, walk, rng)
