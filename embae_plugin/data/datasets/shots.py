"""From a built-in set's description to its pictures: the plan, and the taking of each shot.

Every random number comes from a seed made of (seed, set, purpose, person, camera, picture),
so a picture does not depend on which process takes it, or on what was taken before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from embae_plugin.data.datasets.cameras import photograph, sample_passage
from embae_plugin.data.datasets.catalog import SetSpec
from embae_plugin.data.datasets.people import Person, sample_person
from embae_plugin.data.datasets.scenes import paint_scene

_PERSON, _SCENE, _PASSAGE, _PICTURE, _PLAN = range(5)
_FIRST_DISTRACTOR = 100_000


@dataclass(frozen=True)
class Shot:
    """One picture to take.

    subset: "train", "query" or "gallery". person: number of the person in the set, from 1.
    pid: the number in the file name (0 for distractors). camera: 0-based. step: which picture
    of that person's walk past that camera, 0-based.
    """

    subset: str
    person: int
    pid: int
    camera: int
    step: int


def scaled(spec: SetSpec, scale: float) -> SetSpec:
    """``spec`` with ``scale`` times as many people (at least 4 to train on and 3 to test)."""
    if not 0.0 < scale <= 10.0:
        raise ValueError(f"scale of {spec.name} is {scale}, expected a number in (0, 10]")
    return replace(
        spec,
        train_ids=max(4, round(spec.train_ids * scale)),
        test_ids=max(3, round(spec.test_ids * scale)),
        distractors=round(spec.distractors * scale),
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


@dataclass
class Studio:
    """Takes the shots of one set; keeps the scenes and the latest person at hand."""

    spec: SetSpec
    seed: int
    _scenes: dict[int, Image.Image] = field(default_factory=dict)
    _latest: tuple[int, Person] | None = None

    def person(self, number: int) -> Person:
        """Person ``number`` of the set."""
        if self._latest is None or self._latest[0] != number:
            rng = np.random.default_rng([self.seed, self.spec.index, _PERSON, number])
            self._latest = number, sample_person(rng, self.spec.wardrobe)
        return self._latest[1]

    def scene(self, camera: int) -> Image.Image:
        """The background of ``camera``."""
        if camera not in self._scenes:
            rng = np.random.default_rng([self.seed, self.spec.index, _SCENE, camera])
            settings = self.spec.cameras[camera]
            self._scenes[camera] = paint_scene(settings.scene, rng, settings.clutter)
        return self._scenes[camera]

    def prepare(self) -> Studio:
        """Paints all scenes at once, so that copies of this studio need not; returns itself."""
        for camera in range(len(self.spec.cameras)):
            self.scene(camera)
        return self

    def take(self, shot: Shot) -> Image.Image:
        """The picture of ``shot``, RGB, of the set's size."""
        key = [self.seed, self.spec.index, _PASSAGE, shot.person, shot.camera]
        camera, size = self.spec.cameras[shot.camera], self.spec.size
        passage = sample_passage(camera, size[0], np.random.default_rng(key))
        key[2] = _PICTURE
        rng = np.random.default_rng([*key, shot.step])
        crowded = rng.random() < camera.crowded
        passer_by = sample_person(rng, self.spec.wardrobe) if crowded else None
        return photograph(
            self.person(shot.person), camera, passage, shot.step, self.scene(shot.camera), size,
            passer_by, rng,
        )  # fmt: skip


def file_name(spec: SetSpec, shot: Shot, number: int) -> str:
    """Path of a shot inside the set's folder; ``number`` is unique within person and camera."""
    if spec.layout == "ward":
        return f"{shot.person:04d}{shot.camera + 1:04d}{number:04d}.png"
    folder = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    return f"{folder[shot.subset]}/{shot.pid:04d}_c{shot.camera + 1}s1_{number:06d}_00.jpg"


def names(spec: SetSpec, shots: list[Shot]) -> Iterator[str]:
    """The file name of each shot."""
    counts: dict[tuple[int, int], int] = {}
    for shot in shots:
        key = (shot.pid, shot.camera)
        counts[key] = counts.get(key, 0) + 1
        yield file_name(spec, shot, counts[key])


def save(image: Image.Image, path: Path, quality: int) -> None:
    """Writes a picture in the format of its suffix."""
    if path.suffix == ".jpg":
        image.save(path, "JPEG", quality=quality)
    else:
        image.save(path, "PNG", compress_level=1)


def take_roll(studio: Studio, roll: list[tuple[Shot, Path]]) -> int:
    """Takes and saves some shots of a set; returns their number."""
    for shot, path in roll:
        save(studio.take(shot), path, studio.spec.cameras[shot.camera].quality)
    return len(roll)
