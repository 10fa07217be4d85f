"""Cameras: fixed nuisance, small variation, recoverable colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from embae_plugin.data.datasets.cameras import (
    Camera,
    color_matrix,
    photograph,
    sample_passage,
    tone_curve,
)
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.people import sample_person
from embae_plugin.data.datasets.scenes import (
    HORIZON,
    SCENE_SIZE,
    SCENES,
    draw_occluder,
    paint_scene,
)

WARDROBE = SPECS["synthetic_target"].wardrobe
SIZE = (64, 128)


def shoot(camera: Camera, seed: int = 0, step: int = 0) -> np.ndarray:
    """One picture of the same person; ``seed`` is that of the picture's own variation."""
    person = sample_person(np.random.default_rng(1), WARDROBE)
    passage = sample_passage(camera, SIZE[0], np.random.default_rng(2))
    scene = paint_scene(camera.scene, np.random.default_rng(3))
    rng = np.random.default_rng(seed)
    return np.asarray(photograph(person, camera, passage, step, scene, SIZE, None, rng), np.float32)


def test_the_same_seed_is_the_same_picture():
    camera = Camera("plaza")
    assert np.array_equal(shoot(camera), shoot(camera))
    assert not np.array_equal(shoot(camera), shoot(camera, seed=1))
    assert not np.array_equal(shoot(camera), shoot(camera, step=1))


def test_a_plain_camera_changes_no_colour():
    camera = Camera("plaza")
    assert color_matrix(camera) == (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    assert tone_curve(camera, 1.0) == list(range(256)) * 3


def test_the_colour_matrix_by_hand():
    camera = Camera("plaza", gains=(2.0, 1.0, 0.5), cast=0.25)
    matrix = np.array(color_matrix(camera)).reshape(3, 4)
    # Each channel keeps three quarters of itself and takes a quarter of the next one.
    assert matrix[:, :3] == pytest.approx(
        np.array([[1.5, 0.5, 0.0], [0.0, 0.75, 0.25], [0.125, 0.0, 0.375]])
    )
    grey = np.array(color_matrix(Camera("plaza", saturation=0.0))).reshape(3, 4)[:, :3]
    assert grey == pytest.approx(np.tile([0.299, 0.587, 0.114], (3, 1)))


def test_the_tone_curve_by_hand():
    dark = tone_curve(Camera("plaza", gamma=2.0), 1.0)
    assert dark[0] == 0 and dark[255] == 255 and dark[128] == round(255 * (128 / 255) ** 2)
    hazy = tone_curve(Camera("plaza", contrast=0.5, offset=0.2), 1.0)
    assert hazy[0] == round(255 * (0.2 + 0.8 * 0.25))
    assert hazy[255] == round(255 * (0.2 + 0.8 * 0.75))
    assert tone_curve(Camera("plaza"), 2.0)[200] == 255


def test_a_cast_moves_the_colour_and_blur_the_detail():
    plain = Camera("plaza", noise=0.0, falloff=0.0, exposure=0.0)
    red = shoot(replace(plain, gains=(1.3, 1.0, 0.7))).mean((0, 1)) / shoot(plain).mean((0, 1))
    assert red[0] > 1.15 and red[1] == pytest.approx(1.0, abs=0.02) and red[2] < 0.8

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=1)).mean())

    sharp = detail(shoot(plain))
    for soft in (replace(plain, blur=2.0), replace(plain, motion=5), replace(plain, detail=0.3)):
        assert detail(shoot(soft)) < 0.9 * sharp


def test_light_falls_off_towards_the_far_side():
    flat = Camera("plaza", noise=0.0, falloff=0.0)
    even, left, right = (shoot(replace(flat, falloff=f, light=s)) for f, s in
                         ((0.0, 1.0), (0.6, -1.0), (0.6, 1.0)))  # fmt: skip
    assert left[:, :20].mean() > even[:, :20].mean() > right[:, :20].mean()
    assert left[:, -20:].mean() < even[:, -20:].mean()


@pytest.mark.parametrize("kind", sorted(SCENES))
def test_every_scene_fills_its_size_and_varies(kind):
    scenes = [np.asarray(paint_scene(kind, np.random.default_rng(s)), float) for s in (0, 0, 1)]
    assert scenes[0].shape == (SCENE_SIZE[1], SCENE_SIZE[0], 3)
    assert np.array_equal(scenes[0], scenes[1]) and not np.array_equal(scenes[0], scenes[2])
    upper, lower = scenes[0][:HORIZON].mean((0, 1)), scenes[0][HORIZON + 30 :].mean((0, 1))
    assert np.abs(upper - lower).max() > 5
    assert scenes[0].min() >= 0 and scenes[0].std() > 5


def test_an_unknown_scene_is_named():
    with pytest.raises(ValueError, match=r"unknown scene 'moon'.*plaza"):
        paint_scene("moon", np.random.default_rng(0))


def test_an_occluder_hides_a_part_only():
    for seed in range(12):
        image = Image.new("RGB", SIZE, (255, 0, 255))
        draw_occluder(image, np.random.default_rng(seed))
        hidden = np.mean(np.any(np.asarray(image) != (255, 0, 255), axis=2))
        assert 0.01 < hidden < 0.35
