"""Shapes of a figure: a body part in 3-D becomes a flat, shaded polygon in the picture.

Coordinates: x to the person's left-right axis, y up, z forward, the person 1 high with the
feet at y = 0. A view turns them into picture coordinates (right, up) and a depth that grows
towards the viewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from embae_plugin.data.datasets.people import Color

Vec = tuple[float, float, float]
Point = tuple[float, float]

_ARC = [(math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(7)]
_CIRCLE = [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)]


@dataclass(frozen=True)
class View:
    """Orthographic view of a person.

    heading: radians, 0 = facing the viewer, pi / 2 = facing the picture's right side.
    elevation: radians, how far the camera looks down.
    perspective: how much wider the top of the body looks than its bottom (near, high cameras).
    """

    heading: float
    elevation: float = 0.0
    perspective: float = 0.0

    def project(self, x: float, y: float, z: float) -> Vec:
        """Picture coordinates (right, up) and depth (towards the viewer) of a point."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        depth = z * cos - x * sin
        right = (x * cos + z * sin) * (1.0 + self.perspective * (y - 0.5))
        return right, y * math.cos(self.elevation) - depth * math.sin(self.elevation), depth


@dataclass
class Sketch:
    """Polygons with a drawing order (larger ``key`` = drawn later = nearer)."""

    view: View
    light: float = 0.3
    parts: list[tuple[float, list[Point], Color]] = field(default_factory=list)

    def polygon(self, key: float, points: list[Point], color: Color) -> None:
        """Adds one flat polygon."""
        self.parts.append((key, points, color))

    def limb(self, key: float, start: Vec, end: Vec, r0: float, r1: float, color: Color) -> None:
        """Adds a tapered capsule from ``start`` to ``end``, its lit side lighter."""
        ax, ay, _ = self.view.project(*start)
        bx, by, _ = self.view.project(*end)
        self.polygon(key, capsule(ax, ay, bx, by, r0, r1), shade(color, 0.76))
        # The lit part reaches both ends, or every joint would show as a dark ring.
        dx, ux, uy = self.light * 0.3, *_unit(bx - ax, by - ay)
        ax, ay = ax + (dx - 0.32 * ux) * r0, ay - 0.32 * uy * r0
        bx, by = bx + (dx + 0.32 * ux) * r1, by + 0.32 * uy * r1
        self.polygon(key + 1e-4, capsule(ax, ay, bx, by, 0.68 * r0, 0.68 * r1), color)

    def ellipse(self, key: float, center: Point, rx: float, ry: float, color: Color) -> None:
        """Adds an ellipse given in picture coordinates."""
        cx, cy = center
        self.polygon(key, [(cx + rx * c, cy + ry * s) for c, s in _CIRCLE], color)

    def tube(self, key: float, tube: Tube, color: Color) -> None:
        """Adds a tube's outline, its lit part lighter."""
        self.polygon(key, tube.outline(self.view), shade(color, 0.78))
        self.polygon(key + 1e-4, tube.outline(self.view, 0.74, 0.3 * self.light), color)


@dataclass(frozen=True)
class Tube:
    """A trunk of elliptic cross-sections: rows of (y, half width x, half depth z, centre z)."""

    sections: Sequence[tuple[float, float, float, float]]

    def at(self, y: float) -> tuple[float, float, float]:
        """Half width, half depth and centre z at height ``y`` (linear between the sections)."""
        below = self.sections[0]
        for row in self.sections:
            if row[0] >= y:
                span = row[0] - below[0]
                t = (y - below[0]) / span if span > 0 else 0.0
                return tuple(p + t * (q - p) for p, q in zip(below[1:], row[1:], strict=True))  # type: ignore[return-value]
            below = row
        return self.sections[-1][1:]

    def outline(self, view: View, inset: float = 1.0, shift: float = 0.0) -> list[Point]:
        """The silhouette; ``inset`` narrows it and ``shift`` moves it, in half widths."""
        left, right = [], []
        cos, sin = math.cos(view.heading), math.sin(view.heading)
        for y, a, b, z in self.sections:
            half = math.hypot(a * cos, b * sin)
            x, up, _ = view.project(0.0, y, z)
            left.append((x + half * (shift - inset), up))
            right.append((x + half * (shift + inset), up))
        return left + right[::-1]

    def patch(self, view: View, psi: Point, y: Point, steps: int = 4) -> list[Point] | None:
        """The visible part of a piece of surface, as a polygon.

        psi: from, to: angles around the body, 0 = front, pi / 2 = its x side.
        y: from, to: heights. None if the piece looks away from the viewer.
        """
        return self.ribbon(view, psi, (y[0], y[0]), y[1] - y[0], steps)

    def ribbon(
        self, view: View, psi: Point, y: Point, width: float, steps: int = 4
    ) -> list[Point] | None:
        """Like :meth:`patch`, a slanted one: its lower edge goes from ``y[0]`` to ``y[1]``."""
        bottom, top = [], []
        a, b, _ = self.at(0.5 * (y[0] + y[1]))
        cos, sin = math.cos(view.heading), math.sin(view.heading)
        for k in range(steps + 1):
            angle = psi[0] + (psi[1] - psi[0]) * k / steps
            if math.cos(angle) / b * cos - math.sin(angle) / a * sin <= 0.0:
                continue
            low = y[0] + (y[1] - y[0]) * k / steps
            bottom.append(self._surface(view, angle, low))
            top.append(self._surface(view, angle, low + width))
        return bottom + top[::-1] if len(bottom) > 1 else None

    def _surface(self, view: View, angle: float, y: float) -> Point:
        a, b, z = self.at(y)
        right, up, _ = view.project(a * math.sin(angle), y, z + b * math.cos(angle))
        return right, up


def shade(color: Color, factor: float) -> Color:
    """``color`` made darker (factor < 1) or lighter, clipped to 8 bits."""
    red, green, blue = color
    return (
        min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor)),
    )  # fmt: skip


def _unit(dx: float, dy: float) -> Point:
    length = math.hypot(dx, dy)
    return (dx / length, dy / length) if length > 1e-9 else (0.0, -1.0)


def capsule(ax: float, ay: float, bx: float, by: float, r0: float, r1: float) -> list[Point]:
    """Outline of a tapered capsule between two picture points, radii ``r0`` and ``r1``."""
    ux, uy = _unit(bx - ax, by - ay)
    start = [(ax + r0 * (-uy * c - ux * s), ay + r0 * (ux * c - uy * s)) for c, s in _ARC]
    end = [(bx + r1 * (uy * c + ux * s), by + r1 * (-ux * c + uy * s)) for c, s in _ARC]
    return start + end
