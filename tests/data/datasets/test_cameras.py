"""People and cameras: repeatable, recognisable, and each camera with its own look."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from embae_plugin.data.datasets.body import Figure
from embae_plugin.data.datasets.cameras import Camera, develop, photograph
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.people import PATTERNS, Person
from embae_plugin.data.datasets.shots import Shot, take

FRONT, SIDE, BACK = 0.0, math.pi / 2, math.pi
PLAIN = Camera((150, 150, 150), (120, 120, 120), (90, 110, 90), (0.0, 180.0), noise=0.0,
               falloff=0.0)


def person(seed: int = 0, **changes: object) -> Person:
    """A person in plain white who carries nothing, changed as told."""
    who = Person(np.random.default_rng(seed), SPECS["synthetic_source_a"].wardrobe)
    plain = {"pattern": "plain", "carried": "nothing", "hat": None, "upper": (250, 250, 250),
             "lower": (250, 250, 250), "shoes": (20, 20, 20), "hair": (20, 20, 20),
             "skin": (230, 220, 220), "second": (255, 0, 0), "bag": (255, 0, 0)}
    vars(who).update(plain | changes)
    return who


def draw(who: Person, heading: float) -> np.ndarray:
    return np.asarray(Figure(who, (64, 128), heading, phase=0.0).draw(), np.int16)


def red(who: Person, heading: float) -> int:
    r, g, b, alpha = np.moveaxis(draw(who, heading), 2, 0)
    return int(((r > g + 60) & (r > b + 60) & (alpha > 200)).sum())


def shoot(camera: Camera, seed: int = 0, step: int = 0) -> np.ndarray:
    walk, rng = np.random.default_rng(2), np.random.default_rng(seed)
    return np.asarray(photograph(person(), camera, (64, 128), step, walk, rng), float)


def test_a_seed_is_a_person_and_a_picture():
    wardrobe = SPECS["synthetic_target"].wardrobe
    one, same, other = (vars(Person(np.random.default_rng(s), wardrobe)) for s in (5, 5, 6))
    assert one == same != other
    assert np.array_equal(shoot(PLAIN), shoot(PLAIN))
    assert not np.array_equal(shoot(PLAIN), shoot(PLAIN, seed=1))
    assert not np.array_equal(shoot(PLAIN), shoot(PLAIN, step=1))


def test_many_people_share_the_colour_of_their_clothes():
    wardrobe = SPECS["synthetic_source_a"].wardrobe
    upper = np.array([Person(np.random.default_rng(k), wardrobe).upper for k in range(160)], float)
    distance = np.linalg.norm(upper[:, None] - upper[None], axis=2) + 1e9 * np.eye(len(upper))
    # Within 30 of 441 grey levels: not to be told apart by this across cameras.
    assert np.mean(distance.min(1) < 30) > 0.8


def test_a_figure_stands_inside_its_crop():
    pixels = draw(person(), FRONT)
    rows, columns = np.nonzero(pixels[..., 3] == 255)
    assert pixels.shape == (128, 64, 4)
    assert 2 <= rows.min() < 20 and 118 < rows.max() <= 126
    assert abs(columns.mean() - 31.5) < 3


def test_what_a_person_wears_and_carries_shows_where_it_should():
    for heading in (FRONT, SIDE, BACK):
        assert red(person(), heading) == 0
        assert red(person(pattern="stripes"), heading) > 25
        assert red(person(pattern="block"), heading) > 25
        assert red(person(carried="shoulder bag"), heading) > 15
    assert red(person(carried="hand bag"), FRONT) > 15
    pack = [red(person(carried="backpack"), heading) for heading in (BACK, SIDE, FRONT)]
    assert pack[0] > pack[1] > pack[2] > 0  # the straps show in front
    for pattern, seen, unseen in (("open", FRONT, BACK), ("chest print", FRONT, BACK),
                                  ("back print", BACK, FRONT)):
        assert red(person(pattern=pattern), seen) > 20 and red(person(pattern=pattern), unseen) == 0
    assert len(PATTERNS) == 6  # all of them are above


def test_a_cast_moves_the_colour_and_blur_the_detail():
    picture = Image.fromarray(shoot(PLAIN).astype(np.uint8))

    def through(**settings: object) -> np.ndarray:
        camera = replace(PLAIN, **settings)
        return np.asarray(develop(picture, camera, 1.0, np.random.default_rng(0)), float)

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=1)).mean())

    plain = through()
    cast = through(gains=(1.2, 1.0, 0.7)).mean((0, 1)) / plain.mean((0, 1))
    assert cast[0] > 1.08 and cast[1] == pytest.approx(1.0, abs=0.02) and cast[2] < 0.8
    assert through(gamma=1.5).mean() < 0.9 * plain.mean()
    assert through(contrast=0.5).std() < 0.7 * plain.std()
    assert detail(through(blur=2.0)) < 0.9 * detail(plain)
    dark_left = through(falloff=0.6)
    assert dark_left[:, :20].mean() < plain[:, :20].mean()
    assert dark_left[:, -20:].mean() > plain[:, -20:].mean()


def _pictures(name: str, people: int) -> np.ndarray:
    """One small picture of each person by each camera: (camera, person, 3 x parts)."""
    spec = SPECS[name]
    return np.array([
        [np.asarray(take(spec, 0, Shot("gallery", p, p, c, 0)).resize((4, 16)), float)[:, 1:3]
         for p in range(1, people + 1)]
        for c in range(len(spec.cameras))
    ]).reshape(len(spec.cameras), people, -1)


def test_the_target_misleads_whoever_does_not_know_its_cameras():
    """Colours find people across a source's cameras, and across the target's once the mean of
    each camera is known: what is to be adapted to is the cameras, the people can be told apart."""

    def rank1(pictures: np.ndarray) -> float:
        hits = [np.linalg.norm(a[:, None] - b[None], axis=2).argmin(1) == np.arange(len(a))
                for k, a in enumerate(pictures) for m, b in enumerate(pictures) if k != m]
        return float(np.mean(hits))

    source, target = (_pictures(f"synthetic_{name}", 60) for name in ("source_a", "target"))
    known = target - target.mean(1, keepdims=True)
    spread = [np.std(pictures.mean(1), axis=0).mean() for pictures in (source, target)]
    assert spread[1] > 1.5 * spread[0]
    assert rank1(source) > 1.25 * rank1(target) and rank1(known) > 1.5 * rank1(target)
