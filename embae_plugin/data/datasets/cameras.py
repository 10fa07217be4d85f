"""Cameras: the fixed nuisance of a place, and how it turns a person into a picture.

A camera's own settings are the same in all of its pictures; each picture adds a little of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from embae_plugin.data.datasets.body import Figure
from embae_plugin.data.datasets.people import Color, Person


@dataclass(frozen=True)
class Camera:
    """One camera.

    wall, ground, things: colours of its background.
    headings: directions, in degrees, that people walk in; 0 is towards the camera.
    gains: factors of red, green and blue; gamma (> 1 darkens) and contrast: of the tone.
    blur: Gaussian radius in pixels; noise: standard deviation, 8-bit units.
    falloff: how much darker the left side is than the right one, negative for the reverse.
    scale: a person's height as a share of the crop's; perspective: top-heaviness of a near view.
    """

    wall: Color
    ground: Color
    things: Color
    headings: tuple[float, ...]
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    contrast: float = 1.0
    blur: float = 0.5
    noise: float = 4.0
    falloff: float = 0.1
    scale: float = 0.92
    perspective: float = 0.0


def photograph(
    person: Person, camera: Camera, size: tuple[int, int], step: int,
    walk: np.random.Generator, rng: np.random.Generator,
) -> Image.Image:
    """The ``step``-th picture of ``person`` on a walk past ``camera``, RGB.

    size: (width, height) in pixels. walk: the same for all pictures of that walk; rng: of this one.
    """
    width, height = size
    heading = math.radians(walk.choice(camera.headings) + walk.normal(0.0, 25.0))
    phase, exposure = walk.uniform(0.0, math.tau), walk.normal(0.0, 0.06) + rng.normal(0.0, 0.03)
    shake = rng.normal(0.0, 0.025, 4)
    image, horizon = Image.new("RGB", size, camera.wall), height * (0.55 + shake[0])
    pen = ImageDraw.Draw(image)
    for x, y, wide, high, tint in walk.random((10, 5)).tolist():  # they pass by from step to step
        left, top = 84 * x - 20 - 3 * step, 80 * y - 20
        color = tuple(int((0.7 + 0.6 * tint) * value) for value in camera.things)
        pen.rectangle((left, top, left + 8 + 28 * wide, top + 8 + 36 * high), fill=color)
    pen.rectangle((0, horizon, width, height), fill=camera.ground)
    tall = camera.scale + shake[0]
    figure = Figure(
        person, size, heading + 5 * shake[3], phase + 0.9 * step, tall, 0.5 + 1.5 * shake[1],
        0.5 + 0.5 * tall + shake[2], camera.perspective,
    ).draw()
    image.paste(figure, (0, 0), figure)
    return develop(image, camera, math.exp(exposure), rng)


def develop(
    image: Image.Image, camera: Camera, exposure: float, rng: np.random.Generator
) -> Image.Image:
    """``image`` as ``camera`` renders it, the moment's light being ``exposure`` times as bright."""
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * float(rng.uniform(0.8, 1.25))))
    # Folds of clothes and patches of light: smooth noise, so that no flat surface stays flat.
    coarse = rng.normal(128.0, 13.0, (16, 10)).clip(0, 255).astype(np.uint8)
    patchy = Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)
    light = np.asarray(patchy, np.float32)[..., None] * (exposure / 128.0)
    light *= 1.0 + camera.falloff * np.linspace(-0.5, 0.5, image.width, dtype=np.float32)[:, None]
    pixels = np.asarray(image, np.float32) * (light / 255.0)
    pixels = np.minimum(pixels * np.asarray(camera.gains, np.float32), 1.0) ** camera.gamma
    noise = camera.noise * rng.standard_normal(pixels.shape, np.float32)
    pixels = 127.5 + 255.0 * camera.contrast * (pixels - 0.5) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
