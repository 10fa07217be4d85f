"""Cameras: the fixed nuisance of a place, and how it turns a person into a picture.

A camera's own settings (view, scale, colour cast, gamma, contrast, blur, noise, background)
are the same in all of its pictures; each picture adds a small variation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from embae_plugin.data.datasets.body import Placement, Pose, draw_figure
from embae_plugin.data.datasets.people import Person
from embae_plugin.data.datasets.scenes import SCENE_SIZE, draw_occluder

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Camera:
    """One camera.

    scene: name of its background (see :data:`~embae_plugin.data.datasets.scenes.SCENES`);
    clutter: contrast of that background, 0 (even) to 1.
    headings: directions, in degrees, that people walk in; spread: degrees around them.
    elevation: degrees that it looks down; perspective: top-heaviness of the near view.
    scale: a person's height as a share of the crop; misplaced: detector jitter, same unit;
    stretch: mean widening by resizing crops to one shape.
    gains: red, green, blue white-balance factors; cast: share of each channel that leaks
    into the next one; saturation, contrast, gamma (> 1 darkens), offset (haze, 0 to 1).
    blur: Gaussian radius in pixels; motion: horizontal smear in pixels; detail: resolution
    of the picture as a share of the crop's; noise: standard deviation, 8-bit units.
    light: -1 (left) to 1 (right); falloff: how much darker the picture's far side is.
    occluded, crowded: chances of a foreground object and of a second person behind.
    quality: of the JPEG file.
    """

    scene: str
    clutter: float = 1.0
    headings: tuple[float, ...] = (0.0, 180.0)
    spread: float = 25.0
    elevation: float = 8.0
    perspective: float = 0.0
    scale: float = 0.92
    misplaced: float = 0.025
    stretch: float = 1.15
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    cast: float = 0.0
    saturation: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    offset: float = 0.0
    blur: float = 0.4
    motion: int = 0
    detail: float = 1.0
    noise: float = 4.0
    light: float = 0.3
    falloff: float = 0.15
    occluded: float = 0.04
    crowded: float = 0.08
    quality: int = 88
    exposure: float = 0.06


@dataclass(frozen=True)
class Passage:
    """One walk of a person past a camera: what its pictures have in common.

    heading: radians; phase: radians of the walking cycle in the first picture; stand: left
    edge of the background in the scene; exposure: brightness factor of the moment.
    """

    heading: float
    phase: float
    stand: float
    exposure: float


def sample_passage(camera: Camera, width: int, rng: np.random.Generator) -> Passage:
    """A walk past ``camera``, whose crops are ``width`` pixels wide."""
    heading = camera.headings[int(rng.integers(len(camera.headings)))]
    return Passage(
        heading=float(np.deg2rad(heading + rng.normal(0.0, camera.spread))),
        phase=float(rng.uniform(0.0, 2 * np.pi)),
        stand=float(rng.uniform(0, SCENE_SIZE[0] - width)),
        exposure=float(np.exp(rng.normal(0.0, camera.exposure))),
    )


def color_matrix(camera: Camera) -> tuple[float, ...]:
    """The camera's 3 x 4 colour matrix for ``Image.convert``: saturation, leakage, gains."""
    matrix = np.zeros((3, 4))
    keep = camera.saturation
    matrix[:, :3] = keep * np.eye(3) + (1.0 - keep) * np.asarray(_LUMA)
    leak = (1.0 - camera.cast) * np.eye(3) + camera.cast * np.roll(np.eye(3), 1, axis=1)
    matrix[:, :3] = np.diag(camera.gains) @ leak @ matrix[:, :3]
    return tuple(matrix.ravel().tolist())


def tone_curve(camera: Camera, exposure: float) -> list[int]:
    """256 output levels per channel (768 in all): exposure, gamma, contrast, haze."""
    level = np.clip(np.arange(256) / 255.0 * exposure, 0.0, 1.0) ** camera.gamma
    level = 0.5 + camera.contrast * (level - 0.5)
    level = camera.offset + (1.0 - camera.offset) * np.clip(level, 0.0, 1.0)
    return [int(value) for value in np.rint(255.0 * level)] * 3


def _cloth_folds(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth multiplicative noise (H, W, 1) around 1: folds and uneven light on clothes."""
    coarse = rng.normal(128, 13, (size[1] // 8, size[0] // 6)).clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return (np.asarray(smooth, np.float32) / 128.0)[..., None]


def _place(camera: Camera, rng: np.random.Generator) -> Placement:
    shake = rng.normal(0.0, camera.misplaced, 3)
    height = camera.scale + float(shake[0])
    return Placement(
        height=height,
        center=0.5 + 1.5 * float(shake[1]),
        bottom=0.5 + 0.5 * height + 0.005 + float(shake[2]),
        stretch=camera.stretch * float(rng.uniform(0.93, 1.08)),
    )


def _compose(
    person: Person, camera: Camera, passage: Passage, step: int, scene: Image.Image,
    size: tuple[int, int], passer_by: Person | None, rng: np.random.Generator,
) -> Image.Image:  # fmt: skip
    """Background, perhaps somebody behind, the person, perhaps something in front."""
    left = int(np.clip(passage.stand + 3 * step + rng.normal(0, 2), 0, SCENE_SIZE[0] - size[0]))
    top = int(rng.integers(0, SCENE_SIZE[1] - size[1]))
    crop = np.asarray(scene.crop((left, top, left + size[0], top + size[1])), np.float32)
    elevation = float(np.deg2rad(camera.elevation))
    place = _place(camera, rng)
    if passer_by is not None:
        # Smaller, higher in the picture and off to one side: further away.
        side = 0.5 + float(rng.choice((-1.0, 1.0))) * float(rng.uniform(0.32, 0.5))
        away = Placement(0.78 * place.height, side, place.bottom - 0.05)
        pose = Pose(float(rng.uniform(0, 2 * np.pi)), passage.phase, elevation, 0.0, camera.light)
        crop = _over(crop, draw_figure(passer_by, pose, away, size), size, rng)
    heading = passage.heading + float(rng.normal(0.0, 0.14))
    pose = Pose(heading, passage.phase + 0.9 * step, elevation, camera.perspective, camera.light)
    crop = _over(crop, draw_figure(person, pose, place, size), size, rng)
    image = Image.fromarray(crop.astype(np.uint8))
    if rng.random() < camera.occluded:
        draw_occluder(image, rng)
    return image


def _over(
    below: np.ndarray, figure: Image.Image, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """``figure`` (RGBA) laid over ``below`` (H, W, 3)."""
    pixels = np.asarray(figure, np.float32)
    alpha = pixels[..., 3:] / 255.0
    cloth = np.minimum(pixels[..., :3] * _cloth_folds(size, rng), 255.0)
    return np.asarray(below + alpha * (cloth - below))


def _optics(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Resolution, focus and motion."""
    size = image.size
    if camera.detail < 1.0:
        small = (max(8, round(size[0] * camera.detail)), max(16, round(size[1] * camera.detail)))
        image = image.resize(small, Image.Resampling.BOX)
        image = image.resize(size, Image.Resampling.BICUBIC)
    radius = camera.blur * float(rng.uniform(0.8, 1.25))
    image = image.filter(ImageFilter.GaussianBlur(radius))
    if camera.motion > 1:
        pixels = np.asarray(image, np.float32)
        shifted = [np.roll(pixels, k - camera.motion // 2, axis=1) for k in range(camera.motion)]
        image = Image.fromarray((sum(shifted) / camera.motion).astype(np.uint8))  # type: ignore[union-attr]
    return image


def photograph(
    person: Person, camera: Camera, passage: Passage, step: int, scene: Image.Image,
    size: tuple[int, int], passer_by: Person | None, rng: np.random.Generator,
) -> Image.Image:  # fmt: skip
    """The ``step``-th picture of ``person`` on a walk past ``camera``.

    scene: the camera's whole background. size: (width, height) in pixels.
    passer_by: somebody who may be seen behind, or None. Returns an RGB picture.
    """
    image = _compose(person, camera, passage, step, scene, size, passer_by, rng)
    image = _optics(image, camera, rng)
    image = image.convert("RGB", color_matrix(camera))
    exposure = passage.exposure * float(np.exp(rng.normal(0.0, 0.5 * camera.exposure)))
    image = image.point(tone_curve(camera, exposure))
    pixels = np.asarray(image, np.float32)
    across = np.linspace(-0.5, 0.5, size[0], dtype=np.float32) * np.sign(camera.light)
    pixels = pixels * (1.0 + camera.falloff * across)[:, None]
    pixels += camera.noise * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
