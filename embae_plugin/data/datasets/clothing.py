"""Parts of a figure above the hips: garments with patterns and prints, head, carried things."""

from __future__ import annotations

import math

from embae_plugin.data.datasets.geometry import Sketch, Tube, Vec, shade
from embae_plugin.data.datasets.people import Person

_FRONT, _BACK = 0.0, math.pi


def _torso(person: Person, knees: tuple[float, float]) -> Tube:
    """The upper garment's body, from its hem to the neck."""
    loose, h = person.upper_loose, person.hip_height
    rows = []
    if person.hem < 0.42:
        spread = 0.45 * (knees[1] - knees[0])
        flare = 1.12 if person.upper == "coat" else 1.3
        rows.append((person.hem, flare * person.hip, 0.07 + 0.5 * spread, 0.0))
    rows.append((max(person.hem, h - 0.03), loose * person.hip, 0.082 * loose, 0.0))
    rows += [
        (0.61, loose * person.waist, person.depth * loose, 0.004),
        (0.73, loose * 0.92 * person.shoulder, 1.12 * person.depth, 0.004),
        (0.795, person.shoulder * (0.5 + 0.5 * loose), 0.95 * person.depth, 0.0),
        (0.828, 0.72 * person.shoulder, 0.055, 0.0),
        (0.850, 0.36 * person.shoulder, 0.040, 0.004),
    ]
    return Tube(rows)


def _draw_pattern(sketch: Sketch, person: Person, torso: Tube) -> None:
    """Stripes, checks, thin vertical lines or a block of a second colour on the torso."""
    color, period = person.pattern_color, person.pattern_period
    top = 0.80
    if person.pattern in ("stripes", "checks"):
        y = person.hem + 0.5 * period
        while y < top:
            _wrap(sketch, torso, (y, y + 0.45 * period), color)
            y += period
    if person.pattern in ("checks", "pinstripe"):
        lines = max(8, round(0.55 / period))
        width = 0.38 * math.tau / lines
        for k in range(lines):
            psi = k * math.tau / lines
            piece = torso.patch(sketch.view, (psi, psi + width), (person.hem, top), steps=2)
            if piece:
                sketch.polygon(0.003, piece, color)
    if person.pattern == "block":
        _wrap(sketch, torso, (0.70 - 2 * (period - 0.05), top), color)


def _wrap(sketch: Sketch, torso: Tube, y: tuple[float, float], color: tuple[int, int, int]) -> None:
    """A band of colour all around the torso."""
    band = Tube([(y[0], *torso.at(y[0])), (y[1], *torso.at(y[1]))])
    sketch.polygon(0.002, band.outline(sketch.view), shade(color, 0.82))
    sketch.polygon(0.0021, band.outline(sketch.view, 0.74, 0.3 * sketch.light), color)


def _draw_details(sketch: Sketch, person: Person, torso: Tube) -> None:
    """Prints, the open front of a jacket, a backpack's or a shoulder bag's straps."""
    patches: list[tuple[tuple[float, float], tuple[float, float], tuple[int, int, int]]] = []
    for piece, middle in ((person.chest_print, _FRONT), (person.back_print, _BACK)):
        if piece:
            half, low, high = piece
            patches.append(((middle - half, middle + half), (low, high), person.print_color))
            inner = (middle - 0.5 * half, middle + 0.5 * half)
            third = (high - low) / 3
            patches.append((inner, (low + third, high - third), person.upper_color))
    if person.inner_color:
        patches.append(((-0.34, 0.34), (max(person.hem, 0.45), 0.84), person.inner_color))
    if person.carried == "backpack":
        for psi in (0.72, -0.72):
            patches.append(((psi - 0.17, psi + 0.17), (0.66, 0.835), person.carried_color))
    for psi_range, y_range, color in patches:
        piece_points = torso.patch(sketch.view, psi_range, y_range)
        if piece_points:
            sketch.polygon(0.004, piece_points, color)
    if person.carried == "shoulder bag":
        slant = (-0.9 * person.carried_side, 1.1 * person.carried_side)
        for psi_range in (slant, (math.pi - slant[0], math.pi - slant[1])):
            strap = torso.ribbon(sketch.view, psi_range, (0.80, 0.52), 0.03, steps=8)
            if strap:
                sketch.polygon(0.005, strap, person.carried_color)


def draw_upper(
    sketch: Sketch, person: Person, phase: float, knees: tuple[float, float]
) -> tuple[Vec, Vec]:
    """Torso, arms and everything on them; returns the two hands (side -1, side 1)."""
    torso = _torso(person, knees)
    sketch.tube(0.0, torso, person.upper_color)
    _draw_pattern(sketch, person, torso)
    _draw_details(sketch, person, torso)
    hands = []
    for side in (-1, 1):
        hands.append(_draw_arm(sketch, person, side, phase + (math.pi if side > 0 else 0.0)))
    return hands[0], hands[1]


def _draw_arm(sketch: Sketch, person: Person, side: int, phase: float) -> Vec:
    """One swinging arm with its sleeve; returns the hand."""
    swing = 0.75 * person.stride * math.sin(phase)
    bend = 0.25 + 0.5 * person.stride * (1.0 + math.sin(phase))
    x = side * (person.shoulder * (0.5 + 0.5 * person.upper_loose) - 0.015)
    shoulder = (x, 0.788, 0.0)
    elbow = (x + side * 0.020, 0.795 - 0.165 * math.cos(swing), 0.165 * math.sin(swing))
    angle = swing + bend
    hand = (elbow[0], elbow[1] - 0.155 * math.cos(angle), elbow[2] + 0.155 * math.sin(angle))
    key = sketch.view.project(x, 0.7, 0.3 * elbow[2])[2] + 0.03
    thick, loose = person.limb, person.limb * (0.4 + 0.6 * person.upper_loose)
    sketch.limb(key, elbow, hand, 0.024 * thick, 0.019 * thick, person.skin)
    sketch.limb(key + 0.001, shoulder, elbow, 0.031 * thick, 0.025 * thick, person.skin)
    if person.sleeve <= 0.0:
        return hand
    color = person.upper_color if person.pattern != "block" else person.pattern_color
    color = shade(color, 0.93)
    share = min(1.0, person.sleeve / 0.5)
    cuff = tuple(p + share * (q - p) for p, q in zip(shoulder, elbow, strict=True))
    sketch.limb(key + 0.003, shoulder, cuff, 0.035 * loose, 0.031 * loose, color)  # type: ignore[arg-type]
    if share >= 1.0:
        end = 0.92 * (person.sleeve - 0.5) / 0.5
        cuff = tuple(p + end * (q - p) for p, q in zip(elbow, hand, strict=True))
        sketch.limb(key + 0.002, elbow, cuff, 0.032 * loose, 0.026 * loose, color)  # type: ignore[arg-type]
    return hand


def draw_head(sketch: Sketch, person: Person) -> None:
    """Neck, head, hair, face, hat and scarf."""
    view, size = sketch.view, person.head
    rx, ry = 0.046 * size, 0.064 * size
    cx, cy, _ = view.project(0.0, 0.997 - ry, 0.012)
    neck = view.project(0.0, 0.83, 0.0)
    sketch.limb(0.01, (0.0, 0.83, 0.0), (0.0, 0.90, 0.008), 0.030, 0.028, shade(person.skin, 0.85))
    if person.scarf_color:
        sketch.ellipse(0.25, (neck[0], neck[1] + 0.022), 0.055, 0.026, person.scarf_color)
    facing = math.cos(view.heading)
    side = math.sin(view.heading)
    if person.hair == "long":
        tube = Tube(((0.76, 0.040, 0.022, -0.03), (0.86, 0.052, 0.030, -0.028),
                     (0.95, 0.048, 0.035, -0.012)))  # fmt: skip
        sketch.tube(-0.01 if facing > 0.25 else 0.26, tube, person.hair_color)
    if person.hair == "bun":
        x, y, _ = view.project(0.0, 0.985, -0.045)
        sketch.ellipse(0.28 if facing > 0 else 0.36, (x, y), 0.026, 0.024, person.hair_color)
    hair = person.skin if person.hair == "bald" else person.hair_color
    sketch.ellipse(0.30, (cx, cy), rx, ry, shade(hair, 0.9))
    if facing > -0.55:
        # The face slides to the side it looks to and narrows as the head turns away.
        seen = min(1.0, 0.62 + 0.5 * facing)
        face = (cx + 0.34 * rx * side, cy - 0.17 * ry)
        sketch.ellipse(0.31, face, 0.84 * rx * seen, 0.80 * ry, person.skin)
        eyes = (face[0] + 0.12 * rx * side, face[1] + 0.18 * ry)
        sketch.ellipse(0.32, eyes, 0.55 * rx * seen, 0.10 * ry, shade(person.skin, 0.72))
    if person.hat_color:
        sketch.ellipse(0.34, (cx, cy + 0.52 * ry), 1.12 * rx, 0.55 * ry, person.hat_color)
        brim = (cx + 0.75 * rx * side, cy + 0.30 * ry - 0.1 * ry * facing)
        if facing > -0.5:
            sketch.ellipse(0.35, brim, 0.85 * rx, 0.15 * ry, shade(person.hat_color, 0.7))


def draw_carried(sketch: Sketch, person: Person, hands: tuple[Vec, Vec]) -> None:
    """A backpack, a shoulder bag, a hand bag, a shopping bag or an open umbrella."""
    color, side = person.carried_color, person.carried_side
    hand = hands[0] if side < 0 else hands[1]
    if person.carried == "umbrella":
        x, y, _ = sketch.view.project(0.04 * side, 1.0, 0.02)
        dome = [(x + 0.25 * math.cos(t / 8 * math.pi), y + 0.12 * math.sin(t / 8 * math.pi))
                for t in range(9)]  # fmt: skip
        sketch.polygon(0.5, dome, color)
        sketch.polygon(0.51, [(0.6 * px + 0.4 * x, py) for px, py in dome], shade(color, 1.2))
        return
    if person.carried == "backpack":
        back = -person.depth - 0.055
        bag = Tube(((0.57, 0.080, 0.050, back), (0.60, 0.092, 0.058, back),
                    (0.76, 0.088, 0.055, back), (0.81, 0.060, 0.035, back)))  # fmt: skip
        sketch.tube(sketch.view.project(0.0, 0.7, back)[2] + 0.02, bag, color)
        pocket = bag.patch(sketch.view, (math.pi - 0.7, math.pi + 0.7), (0.60, 0.67))
        if pocket and math.cos(sketch.view.heading) < 0.1:
            sketch.polygon(0.2, pocket, shade(color, 1.35))
        return
    if person.carried == "shoulder bag":
        x = side * (person.hip + 0.022)
        bag = Tube(((0.42, 0.026, 0.070, 0.0), (0.53, 0.022, 0.066, 0.0)))
        moved = Tube([(y, a, b, 0.0) for y, a, b, _ in bag.sections])
        key = sketch.view.project(x, 0.5, 0.0)[2] + 0.01
    elif person.carried in ("hand bag", "shopping bag"):
        drop, a, b = (0.10, 0.028, 0.055) if person.carried == "hand bag" else (0.16, 0.03, 0.075)
        x = hand[0]
        moved = Tube([(hand[1] - 0.03 - drop, a, b, hand[2]), (hand[1] - 0.03, 0.8 * a, 0.85 * b,
                     hand[2])])  # fmt: skip
        key = sketch.view.project(x, 0.5, hand[2])[2] + 0.02
    else:
        return
    offset = sketch.view.project(x, 0.0, 0.0)
    for inset, factor in ((1.0, 0.8), (0.8, 1.0)):
        points = moved.outline(sketch.view, inset)
        shifted = [(px + offset[0], py + offset[1]) for px, py in points]
        sketch.polygon(key, shifted, shade(color, factor))
