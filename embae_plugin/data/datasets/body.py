"""Draws one person in one pose: a walking body with clothes, hair and carried things."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from embae_plugin.data.datasets.clothing import draw_carried, draw_head, draw_upper
from embae_plugin.data.datasets.geometry import Sketch, Tube, Vec, View, shade
from embae_plugin.data.datasets.people import LOWERS, Person

SUPERSAMPLE = 2


@dataclass(frozen=True)
class Pose:
    """How a person is seen at one moment.

    heading: radians, 0 = facing the viewer, pi / 2 = towards the picture's right side.
    phase: radians of the walking cycle.
    elevation, perspective: see :class:`~embae_plugin.data.datasets.geometry.View`.
    light: -1 (light from the left) to 1 (from the right).
    """

    heading: float
    phase: float
    elevation: float = 0.0
    perspective: float = 0.0
    light: float = 0.3


@dataclass(frozen=True)
class Placement:
    """Where the person stands in the crop.

    height: the person's height as a share of the crop's height.
    center: the body axis, as a share of the crop's width.
    bottom: the ground under the feet, as a share of the crop's height from its top.
    stretch: how much wider the person looks: crops of any shape are resized to one.
    """

    height: float = 0.92
    center: float = 0.5
    bottom: float = 0.97
    stretch: float = 1.15


def _leg(person: Person, side: int, phase: float) -> tuple[Vec, Vec, Vec]:
    """Hip, knee and ankle of one leg; the other leg is half a cycle away."""
    swing = person.stride * math.sin(phase)
    bend = 0.08 + 1.1 * person.stride * max(0.0, math.cos(phase)) * (1.0 + 0.3 * math.sin(phase))
    hip = (side * 0.56 * person.hip, person.hip_height, 0.0)
    thigh, shin = 0.49 * person.hip_height, 0.45 * person.hip_height
    knee = (hip[0], hip[1] - thigh * math.cos(swing), thigh * math.sin(swing))
    angle = swing - bend
    ankle = (hip[0], knee[1] - shin * math.cos(angle), knee[2] + shin * math.sin(angle))
    return hip, knee, ankle


def _along(start: Vec, end: Vec, share: float) -> Vec:
    return tuple(p + share * (q - p) for p, q in zip(start, end, strict=True))  # type: ignore[return-value]


def _draw_legs(sketch: Sketch, person: Person, phase: float) -> tuple[float, float]:
    """Legs, shoes and whatever covers them; returns how far the knees spread in z."""
    _, is_skirt, _ = LOWERS[person.lower]
    bare = person.skin
    loose = person.limb * person.lower_loose
    knees = []
    for side in (-1, 1):
        hip, knee, ankle = _leg(person, side, phase + (0.0 if side > 0 else math.pi))
        knees.append(knee[2])
        key = -0.5 + 0.2 * sketch.view.project(hip[0], 0.3, 0.5 * knee[2])[2]
        color = shade(person.lower_color, 0.96 if side > 0 else 0.88)
        toe = (ankle[0], ankle[1] - 0.028, ankle[2] + 0.062)
        sketch.limb(key, knee, ankle, 0.034 * person.limb, 0.022 * person.limb, bare)
        sketch.limb(key + 0.001, _along(ankle, toe, -0.1), toe, 0.024, 0.018, person.shoes)
        if is_skirt:
            sketch.limb(key + 0.002, hip, knee, 0.05 * person.limb, 0.034 * person.limb, bare)
            continue
        upper_share = min(1.0, person.leg_cover / 0.52)
        sketch.limb(key + 0.002, hip, knee, 0.048 * person.limb, 0.034 * person.limb, bare)
        cuff = _along(hip, knee, upper_share)
        sketch.limb(key + 0.004, hip, cuff, 0.055 * loose, 0.043 * loose, color)
        if upper_share >= 1.0:
            hem = _along(knee, ankle, (person.leg_cover - 0.52) / 0.48)
            sketch.limb(key + 0.003, knee, hem, 0.041 * loose, 0.033 * loose, color)
    return min(knees), max(knees)


def _draw_lower(sketch: Sketch, person: Person, knees: tuple[float, float]) -> None:
    """The hips, and the skirt if the lower garment (or a dress) is one."""
    h = person.hip_height
    hips = Tube(
        (
            (h - 0.05, 0.86 * person.hip, 0.075, 0.0),
            (h + 0.04, person.hip, 0.08, 0.0),
            (h + 0.12, 1.02 * person.waist, 0.07, 0.0),
        )
    )
    sketch.tube(-0.3, hips, person.lower_color)
    _, is_skirt, _ = LOWERS[person.lower]
    if not is_skirt:
        return
    hem = h * (1.0 - person.leg_cover)
    reach, back = max(0.06, 0.75 * knees[1]), min(-0.06, 0.75 * knees[0])
    skirt = Tube(
        (
            (hem, 1.22 * person.hip * person.lower_loose, 0.03 + (reach - back) / 2,
             (reach + back) / 2),
            (h + 0.02, 1.04 * person.hip, 0.085, 0.0),
            (h + 0.11, 1.02 * person.waist, 0.07, 0.0),
        )
    )  # fmt: skip
    sketch.tube(-0.25, skirt, person.lower_color)


def draw_figure(person: Person, pose: Pose, place: Placement, size: tuple[int, int]) -> Image.Image:
    """Draws ``person`` in ``pose``.

    size: (width, height) of the crop in pixels.
    Returns an RGBA picture of that size; outside the person and its shadow it is transparent.
    """
    view = View(pose.heading, pose.elevation, pose.perspective)
    sketch = Sketch(view, pose.light)
    knees = _draw_legs(sketch, person, pose.phase)
    _draw_lower(sketch, person, knees)
    hands = draw_upper(sketch, person, pose.phase, knees)
    draw_head(sketch, person)
    draw_carried(sketch, person, hands)

    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    scale = place.height * height
    left, bottom = place.center * width, place.bottom * height
    canvas = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(canvas)
    radius_y = scale * (0.018 + 0.10 * math.sin(pose.elevation))
    draw.ellipse(
        (left - 0.17 * scale, bottom - radius_y, left + 0.17 * scale, bottom + radius_y),
        fill=(12, 12, 14, 105),
    )
    wide = scale * place.stretch
    for _, points, color in sorted(sketch.parts, key=lambda part: part[0]):
        draw.polygon([(left + wide * x, bottom - scale * y) for x, y in points], fill=(*color, 255))
    return canvas.reduce(SUPERSAMPLE)
