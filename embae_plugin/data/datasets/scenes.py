"""Places that the built-in cameras look at: backgrounds, and things that stand in front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from embae_plugin.data.datasets.geometry import shade
from embae_plugin.data.datasets.people import Color

# A scene is wider and higher than a crop, so that crops can be cut from many places of it.
SCENE_SIZE = (512, 192)
HORIZON = 84
_Painter = Callable[[ImageDraw.ImageDraw, np.random.Generator], None]


def _vary(rng: np.random.Generator, color: Color, spread: float = 0.25) -> Color:
    return shade(color, float(rng.uniform(1.0 - spread, 1.0 + spread)))


def _ground(draw: ImageDraw.ImageDraw, color: Color, tile: int, joint: Color) -> None:
    """Paved ground below the horizon, its rows getting higher towards the viewer."""
    width, height = SCENE_SIZE
    draw.rectangle((0, HORIZON, width, height), fill=color)
    y, step = float(HORIZON), 3.0
    while tile and y < height:
        draw.line((0, y, width, y), fill=joint)
        y, step = y + step, step * 1.35
    for x in range(-width, 2 * width, tile) if tile else ():
        draw.line((width // 2 + (x - width // 2) // 3, HORIZON, x, height), fill=joint)


def _bicycle(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float) -> None:
    color = _vary(rng, (90, 90, 96), 0.6)
    for dx in (0, 30):
        draw.ellipse((x + dx - 11, y - 22, x + dx + 11, y), outline=color, width=2)
    draw.line((x, y - 11, x + 9, y - 27, x + 26, y - 26, x + 14, y - 11, x, y - 11), fill=color,
              width=2)  # fmt: skip
    draw.line((x + 30, y - 11, x + 26, y - 32), fill=color, width=2)


def _car(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float) -> None:
    color = _vary(rng, [(150, 30, 30), (200, 200, 205), (40, 44, 52), (40, 70, 130)][
        int(rng.integers(4))])  # fmt: skip
    draw.rounded_rectangle((x, y - 26, x + 88, y - 6), 7, fill=color)
    draw.polygon(((x + 16, y - 25), (x + 28, y - 42), (x + 62, y - 42), (x + 76, y - 25)),
                 fill=shade(color, 0.45))  # fmt: skip
    for dx in (18, 70):
        draw.ellipse((x + dx - 9, y - 16, x + dx + 9, y + 2), fill=(22, 22, 24))


def _foliage(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[int, int, int, int], n: int
) -> None:
    for _ in range(n):
        x, y = rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])
        r = rng.uniform(4, 12)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_vary(rng, (58, 84, 46), 0.45))


def _plaza(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=(150, 146, 138))
    _foliage(draw, rng, (0, 0, SCENE_SIZE[0], 44), 90)
    _ground(draw, (164, 160, 152), 34, (138, 134, 128))
    for x in rng.uniform(0, SCENE_SIZE[0], 9):
        _bicycle(draw, rng, x, rng.uniform(90, 112))


def _street(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=(112, 104, 98))
    for x in range(0, SCENE_SIZE[0], 26):
        for y in range(6, 60, 22):
            draw.rectangle((x, y, x + 14, y + 14), fill=_vary(rng, (66, 74, 88), 0.4))
    _ground(draw, (104, 104, 108), 0, (0, 0, 0))
    draw.rectangle((0, 150, SCENE_SIZE[0], 154), fill=(190, 188, 180))
    for x in range(0, SCENE_SIZE[0], 128):
        _car(draw, rng, x + rng.uniform(0, 30), rng.uniform(108, 124))


def _corridor(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON + 30), fill=(188, 184, 172))
    draw.rectangle((0, HORIZON + 8, SCENE_SIZE[0], HORIZON + 30), fill=(120, 116, 108))
    for x in range(0, SCENE_SIZE[0], 90):
        left = x + float(rng.uniform(0, 36))
        draw.rectangle((left, 18, left + 34, HORIZON + 30), fill=_vary(rng, (126, 92, 64), 0.3))
        draw.rectangle((left + 44, 34, left + 62, 58), fill=_vary(rng, (196, 190, 120), 0.5))
    draw.rectangle((0, HORIZON + 30, *SCENE_SIZE), fill=(150, 148, 146))
    for x in range(0, SCENE_SIZE[0], 60):
        draw.ellipse((x, 132, x + 46, 148), fill=(178, 176, 172))


def _park(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=(120, 138, 120))
    _foliage(draw, rng, (0, 0, SCENE_SIZE[0], HORIZON), 240)
    for x in rng.uniform(0, SCENE_SIZE[0], 10):
        draw.rectangle((x, 0, x + rng.uniform(4, 9), HORIZON + 10), fill=(70, 56, 44))
    _ground(draw, (106, 126, 74), 0, (0, 0, 0))
    draw.polygon(((0, 140), (SCENE_SIZE[0], 118), (SCENE_SIZE[0], 192), (0, 192)),
                 fill=(168, 152, 124))  # fmt: skip


def _shop(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON + 20), fill=(64, 66, 74))
    for x in range(0, SCENE_SIZE[0], 64):
        draw.rectangle((x + 4, 12, x + 58, HORIZON + 12), fill=_vary(rng, (110, 122, 134), 0.35))
        for _ in range(5):
            px, py = x + rng.uniform(6, 50), rng.uniform(16, 80)
            item = tuple(int(v) for v in rng.integers(60, 220, 3))
            draw.rectangle((px, py, px + 8, py + 16), fill=item)
    _ground(draw, (132, 122, 114), 22, (112, 102, 96))


def _yard(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON + 6), fill=(142, 84, 66))
    for y in range(0, HORIZON + 6, 7):
        for x in range(-8 * (y // 7 % 2), SCENE_SIZE[0], 16):
            draw.rectangle((x, y, x + 14, y + 5), fill=_vary(rng, (150, 90, 70), 0.18))
    _ground(draw, (120, 112, 100), 48, (94, 88, 80))
    for x in rng.uniform(0, SCENE_SIZE[0], 7):
        side = rng.uniform(16, 34)
        draw.rectangle((x, 116 - side, x + side, 116), fill=_vary(rng, (110, 96, 70), 0.5))


SCENES: dict[str, _Painter] = {
    "plaza": _plaza,
    "street": _street,
    "corridor": _corridor,
    "park": _park,
    "shop": _shop,
    "yard": _yard,
}


def paint_scene(kind: str, rng: np.random.Generator, clutter: float = 1.0) -> Image.Image:
    """A whole background of ``SCENE_SIZE``.

    clutter: its contrast, from 0 (one colour) to 1.
    Raises ValueError for an unknown ``kind``.
    """
    if kind not in SCENES:
        raise ValueError(f"unknown scene {kind!r}, expected one of {', '.join(SCENES)}")
    image = Image.new("RGB", SCENE_SIZE)
    SCENES[kind](ImageDraw.Draw(image), rng)
    # Patchy light and dirt: smooth noise, so that no two crops of a flat wall are alike.
    coarse = rng.normal(128, 22, (12, 32)).clip(0, 255).astype(np.uint8)
    patchy = Image.fromarray(coarse).resize(SCENE_SIZE, Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) * (np.asarray(patchy, np.float32) / 128.0)[..., None]
    mean = pixels.mean((0, 1))
    pixels = mean + clutter * (pixels - mean)
    pixels += clutter * rng.normal(0, 7, (SCENE_SIZE[1], SCENE_SIZE[0], 1))
    smooth = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return smooth.filter(ImageFilter.GaussianBlur(0.8))


def draw_occluder(image: Image.Image, rng: np.random.Generator) -> None:
    """Puts a railing, a pole or a low wall in front of the person, in place."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    color = _vary(rng, (130, 130, 134), 0.5)
    kind = int(rng.integers(3))
    if kind == 0:
        x = float(rng.uniform(0.05, 0.95)) * width
        draw.rectangle((x, 0, x + rng.uniform(0.05, 0.11) * width, height), fill=color)
    elif kind == 1:
        y = float(rng.uniform(0.62, 0.80)) * height
        for k in range(3):
            top = y + k * 0.07 * height
            draw.rectangle((0, top, width, top + 0.022 * height), fill=color)
    else:
        draw.rectangle((0, float(rng.uniform(0.76, 0.88)) * height, width, height), fill=color)
