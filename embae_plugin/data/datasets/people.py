"""Identities of the built-in cameras: what stays the same about a person in every picture.

Most people are dressed in dark, grey, white or blue, as in any street, so that colour alone
leaves many pairs of people alike; what tells them apart is the combination of cut, sleeve
and leg length, pattern, print, hair, shoes and carried things.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Color = tuple[int, int, int]
_Key = TypeVar("_Key", bound=str)

# Clothing colour families: (hue, saturation, value) ranges, each in [0, 1].
FAMILIES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((0.0, 1.0), (0.0, 0.25), (0.07, 0.18)),
    "charcoal": ((0.0, 1.0), (0.0, 0.15), (0.22, 0.36)),
    "grey": ((0.0, 1.0), (0.0, 0.08), (0.45, 0.66)),
    "white": ((0.0, 1.0), (0.0, 0.06), (0.84, 0.96)),
    "navy": ((0.60, 0.67), (0.40, 0.70), (0.18, 0.34)),
    "denim": ((0.57, 0.62), (0.35, 0.60), (0.34, 0.62)),
    "sky": ((0.53, 0.60), (0.28, 0.50), (0.70, 0.88)),
    "brown": ((0.05, 0.09), (0.40, 0.62), (0.25, 0.45)),
    "beige": ((0.08, 0.12), (0.20, 0.36), (0.64, 0.82)),
    "olive": ((0.15, 0.25), (0.30, 0.50), (0.28, 0.46)),
    "green": ((0.30, 0.43), (0.40, 0.70), (0.34, 0.62)),
    "red": ((0.97, 1.01), (0.65, 0.85), (0.50, 0.82)),
    "wine": ((0.94, 0.99), (0.50, 0.70), (0.28, 0.42)),
    "pink": ((0.90, 0.98), (0.28, 0.50), (0.78, 0.92)),
    "orange": ((0.04, 0.08), (0.65, 0.85), (0.75, 0.92)),
    "yellow": ((0.12, 0.16), (0.55, 0.80), (0.75, 0.92)),
    "purple": ((0.74, 0.83), (0.35, 0.60), (0.34, 0.62)),
}
SKINS: tuple[Color, ...] = (
    (232, 190, 165), (222, 178, 150), (210, 162, 130), (180, 130, 98), (140, 96, 70), (96, 66, 50),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (24, 20, 20), (34, 27, 24), (60, 42, 30), (92, 66, 42), (150, 118, 74), (130, 128, 126),
)  # fmt: skip

# Upper garment: (share of the arm covered, height of the hem with the person 1 high, looseness).
UPPERS: dict[str, tuple[float, float, float]] = {
    "vest": (0.0, 0.49, 1.00),
    "t-shirt": (0.36, 0.47, 1.06),
    "shirt": (1.0, 0.46, 1.08),
    "pullover": (1.0, 0.49, 1.12),
    "jacket": (1.0, 0.45, 1.20),
    "coat": (1.0, 0.30, 1.22),
    "dress": (0.30, 0.33, 1.00),
}
# Lower garment: (share of the leg covered, is it a skirt, looseness).
LOWERS: dict[str, tuple[float, bool, float]] = {
    "trousers": (0.97, False, 1.12),
    "leggings": (0.95, False, 0.95),
    "shorts": (0.44, False, 1.22),
    "skirt": (0.48, True, 1.00),
}


@dataclass(frozen=True)
class Wardrobe:
    """What the people of one place tend to wear: relative weights, and chances of extras."""

    uppers: Mapping[str, float]
    lowers: Mapping[str, float]
    upper_colors: Mapping[str, float]
    lower_colors: Mapping[str, float]
    patterned: float = 0.3
    printed: float = 0.3
    carrying: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """One identity. Lengths are in units of the person's height, colours are 8-bit RGB."""

    shoulder: float
    waist: float
    hip: float
    depth: float
    hip_height: float
    head: float
    limb: float
    skin: Color
    hair: str
    hair_color: Color
    upper: str
    sleeve: float
    hem: float
    upper_loose: float
    upper_color: Color
    inner_color: Color | None
    pattern: str
    pattern_color: Color
    pattern_period: float
    chest_print: tuple[float, float, float] | None
    back_print: tuple[float, float, float] | None
    print_color: Color
    lower: str
    leg_cover: float
    lower_loose: float
    lower_color: Color
    shoes: Color
    carried: str
    carried_color: Color
    carried_side: int
    hat_color: Color | None
    scarf_color: Color | None
    stride: float


def pick(rng: np.random.Generator, weights: Mapping[_Key, float]) -> _Key:
    """One key of ``weights``, drawn in proportion to its value."""
    values = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(values, rng.random() * values[-1], side="right"))]


def cloth_color(rng: np.random.Generator, family: str) -> Color:
    """An 8-bit RGB colour of one of :data:`FAMILIES`."""
    hue, saturation, value = (float(rng.uniform(*bounds)) for bounds in FAMILIES[family])
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def _contrasting(rng: np.random.Generator, color: Color) -> Color:
    """A colour that shows on ``color``: light on dark, dark or saturated on light."""
    dark = sum(color) < 330
    families = ("white", "grey", "yellow", "sky", "pink") if dark else ("black", "navy", "red")
    return cloth_color(rng, families[int(rng.integers(len(families)))])


def _body(rng: np.random.Generator) -> dict[str, float]:
    """Proportions: slim to heavy, short-legged to long-legged."""
    girth = float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.35))
    return {
        "shoulder": float(rng.uniform(0.110, 0.132)) * (0.6 + 0.4 * girth),
        "waist": float(rng.uniform(0.078, 0.094)) * girth,
        "hip": float(rng.uniform(0.092, 0.106)) * (0.35 + 0.65 * girth),
        "depth": float(rng.uniform(0.066, 0.076)) * girth,
        "hip_height": float(rng.uniform(0.475, 0.525)),
        "head": float(rng.uniform(0.92, 1.08)),
        "limb": 0.5 + 0.5 * girth,
        "stride": float(rng.uniform(0.28, 0.50)),
    }


def _patch(rng: np.random.Generator, chance: float) -> tuple[float, float, float] | None:
    """A print on the garment as (half width in radians, bottom, top), or None."""
    if rng.random() >= chance:
        return None
    top = float(rng.uniform(0.74, 0.79))
    return float(rng.uniform(0.30, 0.75)), top - float(rng.uniform(0.04, 0.14)), top


def _upper(rng: np.random.Generator, wardrobe: Wardrobe) -> dict[str, object]:
    """The upper garment's cut, colours, pattern and prints."""
    kind = pick(rng, wardrobe.uppers)
    sleeve, hem, loose = UPPERS[kind]
    color = cloth_color(rng, pick(rng, wardrobe.upper_colors))
    patterned = rng.random() < wardrobe.patterned
    open_front = kind in ("jacket", "coat") and rng.random() < 0.55
    pattern = ("stripes", "checks", "block", "pinstripe")[int(rng.integers(4))]
    printed = 0.0 if patterned or open_front else wardrobe.printed
    return {
        "upper": kind,
        "sleeve": float(np.clip(sleeve + rng.normal(0, 0.04) * (0 < sleeve < 1), 0, 1)),
        "hem": hem + float(rng.uniform(-0.02, 0.02)),
        "upper_loose": loose * float(rng.uniform(0.96, 1.06)),
        "upper_color": color,
        "inner_color": _contrasting(rng, color) if open_front else None,
        "pattern": pattern if patterned else "plain",
        "pattern_color": _contrasting(rng, color),
        "pattern_period": float(rng.uniform(0.035, 0.075)),
        "chest_print": _patch(rng, printed),
        "back_print": _patch(rng, 0.5 * printed),
        "print_color": _contrasting(rng, color),
    }


def _lower(rng: np.random.Generator, wardrobe: Wardrobe) -> dict[str, object]:
    """The lower garment and the shoes."""
    kind = pick(rng, wardrobe.lowers)
    cover, _, loose = LOWERS[kind]
    shoe = ("black", "black", "white", "brown", "grey", "red")[int(rng.integers(6))]
    return {
        "lower": kind,
        "leg_cover": cover + float(rng.uniform(-0.06, 0.06)) * (cover < 0.9),
        "lower_loose": loose * float(rng.uniform(0.92, 1.10)),
        "lower_color": cloth_color(rng, pick(rng, wardrobe.lower_colors)),
        "shoes": cloth_color(rng, shoe),
    }


def sample_person(rng: np.random.Generator, wardrobe: Wardrobe) -> Person:
    """One identity, drawn with ``rng`` from a place's ``wardrobe``."""
    bag = ("black", "black", "charcoal", "navy", "brown", "red", "beige", "green")
    hair = ("short", "short", "short", "bun", "long", "long", "bald")[int(rng.integers(7))]
    grey_hair = int(rng.integers(len(HAIRS))) if rng.random() < 0.45 else int(rng.integers(2))
    extras = {
        "skin": SKINS[int(rng.integers(len(SKINS)))],
        "hair": hair,
        "hair_color": HAIRS[grey_hair],
        "carried": pick(rng, {"nothing": 1.0, **wardrobe.carrying}),
        "carried_color": cloth_color(rng, bag[int(rng.integers(len(bag)))]),
        "carried_side": 1 if rng.random() < 0.5 else -1,
        "hat_color": cloth_color(rng, bag[int(rng.integers(8))]) if rng.random() < 0.08 else None,
        "scarf_color": cloth_color(rng, pick(rng, wardrobe.upper_colors))
        if rng.random() < 0.08
        else None,
    }
    return Person(**_body(rng), **_upper(rng, wardrobe), **_lower(rng, wardrobe), **extras)  # type: ignore[arg-type]
