"""Draws one person in one pose: a walking body of flat shapes with clothes, hair and a bag.

Lengths are shares of the person's height; x is to the person's left, y up and z forward.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from embae_plugin.data.datasets.people import PATTERNS, Color, Person

_SUPERSAMPLE = 2
# The trunk from the lowest hem to the neck: heights, half of its width, half of its depth.
_LEVELS = (0.28, 0.50, 0.61, 0.75, 0.80, 0.85)
_BROAD = np.array((0.115, 0.105, 0.092, 0.125, 0.11, 0.045))
_DEEP = np.array((0.075, 0.075, 0.075, 0.072, 0.055, 0.04))


class Figure:
    """One picture of a person on a transparent canvas.

    size: (width, height) of the crop in pixels; crops of any shape are resized to one, so the
    person is as wide as the crop is. heading: radians, 0 = facing the viewer, pi / 2 = walking to
    the picture's right. phase: radians of the walking cycle. height: the person's, as a share of
    the crop's. center, bottom: of the body axis and the ground, as shares of width and height.
    perspective: how much wider the top of the body looks than its bottom (near, high cameras).
    """

    def __init__(
        self, person: Person, size: tuple[int, int], heading: float, phase: float,
        height: float = 0.92, center: float = 0.5, bottom: float = 0.97, perspective: float = 0.0,
    ) -> None:
        self.person, self.phase, self.perspective = person, phase, perspective
        self.facing, self.across = math.cos(heading), math.sin(heading)
        width, tall = size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE
        self.canvas = Image.new("RGBA", (width, tall))
        self.pen = ImageDraw.Draw(self.canvas)
        self.scale, self.stretch = height * tall, size[0] / 56
        self.left, self.bottom = center * width, bottom * tall
        self.halves = person.girth * np.hypot(_BROAD * self.facing, _DEEP * self.across)

    def draw(self) -> Image.Image:
        """The RGBA picture, of the crop's size and transparent outside the person."""
        near = -1 if self.across > 0.0 else 1
        self.arm(-near)
        self.leg(-near)
        self.leg(near)
        self.trunk()
        self.arm(near)
        self.head()
        return self.canvas.reduce(_SUPERSAMPLE)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a point ``x`` to the right of the body axis and ``y`` above the ground."""
        wide = self.scale * self.stretch * (1.0 + self.perspective * (y - 0.5))
        return self.left + wide * x, self.bottom - self.scale * y

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """An ellipse around (x, y), which is in the picture's plane."""
        self.pen.ellipse((*self.at(x - rx, y + ry), *self.at(x + rx, y - ry)), fill=color)

    def limb(
        self, joints: list[tuple[float, float, float]], radius: float, color: Color, side: int = 0
    ) -> None:
        """A thick line through points (x, y, z) of the body, with round joints."""
        if side:  # without a difference, left and right would run together
            color = tuple(int(value * (0.87 + 0.05 * side)) for value in color)
        points = [(x * self.facing + z * self.across, y) for x, y, z in joints]
        width = round(2 * radius * self.scale)
        self.pen.line([self.at(*point) for point in points], fill=color, width=width)
        for point in points:
            self.oval(*point, radius / self.stretch, radius, color)

    def band(self, low: float, high: float, color: Color, half: float = 0, side: int = 0) -> None:
        """The trunk between two heights; or only ``half`` of the half width on either side of the
        chest's middle (``side`` 1) or of the back's (-1), as far as that is in view."""
        half = half * side * self.facing if side else 1.0
        left, right = max(-1.0, side * self.across - half), min(1.0, side * self.across + half)
        if left < right:
            heights = [low, *(level for level in _LEVELS if low < level < high), high]
            rows = [*zip(np.interp(heights, _LEVELS, self.halves).tolist(), heights, strict=True)]
            points = [self.at(left * width, y) for width, y in rows]
            points += [self.at(right * width, y) for width, y in reversed(rows)]
            self.pen.polygon(points, fill=color)

    def leg(self, side: int) -> None:
        """The leg of one side, with its shoe and its part of the trousers."""
        who, phase = self.person, self.phase + side * math.pi / 2
        swing, lift = who.stride * math.sin(phase), 0.05 * max(0.0, math.cos(phase))
        x, ankle = side * 0.055 * who.girth, 0.46 * swing - lift
        joints = [(x, 0.5, 0.0), (x, 0.27 + 0.3 * lift, 0.24 * swing), (x, 0.04 + lift, ankle)]
        self.limb(joints, 0.03 * who.girth, who.skin)
        self.limb([joints[2], (x, 0.025 + lift, ankle + 0.05)], 0.024, who.shoes)
        if not who.skirt:
            self.limb(joints[: 3 if who.long_legs else 2], 0.045 * who.girth, who.lower, side)

    def arm(self, side: int) -> None:
        """The arm of one side, with its sleeve and a hand bag."""
        who, phase = self.person, self.phase - side * math.pi / 2
        x, swing = side * 0.125 * who.girth, who.stride * math.sin(phase)
        hand = 0.28 * swing + 0.05
        joints = [(x, 0.78, 0.0), (1.1 * x, 0.63, 0.14 * swing), (1.1 * x, 0.48, hand)]
        self.limb(joints, 0.022 * who.girth, who.skin)
        self.limb(joints[: 3 if who.long_sleeves else 2], 0.031 * who.girth, who.upper, side)
        if who.carried == "hand bag" and side == who.side:
            self.limb([(x, 0.38, hand - 0.04), (x, 0.38, hand + 0.04)], 0.05, who.bag)

    def trunk(self) -> None:
        """Hips or skirt, the upper garment with its pattern, and a bag on the back or shoulder."""
        who, on_back = self.person, [(0.0, 0.75, -0.09), (0.0, 0.63, -0.11)]
        if who.carried == "backpack" and self.facing > 0.0:
            self.limb(on_back, 0.085, who.bag)
        self.band(0.28 if who.skirt else 0.45, 0.62, who.lower)
        self.band(who.hem, 0.85, who.upper)
        for low, high, half, side in PATTERNS[who.pattern]:
            self.band(low, high, who.second, half, side)
        if who.carried == "shoulder bag":
            x = 0.13 * who.side
            self.limb([(-0.5 * x, 0.82, 0.0), (x, 0.5, 0.0)], 0.011, who.bag)
            self.limb([(x, 0.46, -0.04), (x, 0.46, 0.04)], 0.05, who.bag)
        elif who.carried == "backpack":
            for color, half in ((who.bag, 0.8), (who.upper, 0.4)):  # straps
                self.band(0.62, 0.82, color, half, 1)
            if self.facing <= 0.0:
                self.limb(on_back, 0.085, who.bag)

    def head(self) -> None:
        """Neck, hair, face and hat."""
        who = self.person
        self.limb([(0.0, 0.84, 0.0), (0.0, 0.88, 0.0)], 0.03, who.skin)
        if who.long_hair and self.facing < 0.5:
            self.oval(-0.02 * self.across, 0.86, 0.055, 0.10, who.hair)
        self.oval(0.0, 0.935, 0.046, 0.063, who.hair)
        if self.facing > -0.5:
            self.oval(0.016 * self.across, 0.925, 0.026 + 0.014 * self.facing, 0.05, who.skin)
        if who.hat:
            self.oval(0.01 * self.across, 0.975, 0.055, 0.03, who.hat)
