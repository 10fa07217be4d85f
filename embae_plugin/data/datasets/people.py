"""Identities of the drawn people: what stays the same about a person in every picture.

Most wear black, grey, white or blue, as in any street, so that colour alone leaves many of them
alike; what tells them apart is the combination of cut, pattern, build, hair, hat, bag and shoes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Color = tuple[int, ...]

COLORS: dict[str, Color] = {
    "black": (32, 30, 32), "charcoal": (74, 74, 78), "grey": (142, 141, 140),
    "white": (232, 230, 226), "navy": (32, 40, 72), "denim": (66, 92, 136), "sky": (132, 176, 212),
    "brown": (94, 64, 42), "beige": (192, 172, 140), "olive": (92, 94, 58), "green": (50, 116, 66),
    "red": (176, 42, 42), "wine": (94, 36, 50), "pink": (218, 140, 172), "orange": (220, 116, 48),
    "yellow": (222, 188, 70), "purple": (98, 66, 128), "light skin": (222, 178, 150),
    "tan skin": (180, 130, 98), "dark skin": (110, 76, 56), "blond": (150, 118, 74),
}
# From and to which height, how wide, and on which side the second colour shows on the first.
PATTERNS: dict[str, list[tuple[float, float, float, int]]] = {
    "plain": [],
    "stripes": [(0.01 * y, 0.01 * y + 0.028, 0.0, 0) for y in range(50, 80, 6)],
    "block": [(0.68, 0.85, 0.0, 0)],
    "open": [(0.46, 0.84, 0.35, 1)],
    "chest print": [(0.65, 0.77, 0.5, 1)],
    "back print": [(0.65, 0.77, 0.5, -1)],
}


@dataclass(frozen=True)
class Wardrobe:
    """What the people of one place tend to wear.

    uppers, lowers: relative weights of the garments' colours, names of :data:`COLORS`.
    patterns, carried: of :data:`PATTERNS` and of things to carry. sleeves, coat, trousers, skirt:
    chances of long sleeves, of a long hem, of long trousers and of a skirt.
    """

    uppers: Mapping[str, float]
    lowers: Mapping[str, float]
    patterns: Mapping[str, float]
    carried: Mapping[str, float]
    sleeves: float
    coat: float
    trousers: float
    skirt: float


class Person:
    """One identity, drawn with ``rng`` from a place's ``wardrobe``; lengths in its own height."""

    def __init__(self, rng: np.random.Generator, wardrobe: Wardrobe) -> None:
        def pick(weights: Mapping[str, float]) -> str:
            limits = np.cumsum(list(weights.values()))
            return list(weights)[int(np.searchsorted(limits, rng.random() * limits[-1]))]

        def color(*names: str) -> Color:
            tinted = np.asarray(COLORS[names[rng.integers(len(names))]]) * rng.uniform(0.8, 1.2)
            return tuple((tinted + rng.normal(0.0, 5.0, 3)).clip(8, 250).astype(int).tolist())

        leather = ("black", "charcoal", "navy", "brown", "red", "beige", "green")
        self.girth = float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.25))  # 1 is the average
        self.stride = float(rng.uniform(0.3, 0.5))
        self.skin = color("light skin", "light skin", "tan skin", "dark skin")
        self.hair, self.long_hair = color("black", "brown", "blond", "grey"), rng.random() < 0.35
        self.hat = color(*leather) if rng.random() < 0.1 else None
        self.upper = color(pick(wardrobe.uppers))
        dark = sum(self.upper) < 330
        self.second = color(*("white", "yellow", "sky") if dark else ("black", "navy", "red"))
        self.pattern = pick(wardrobe.patterns)
        self.hem = float(rng.uniform(0.42, 0.48)) - 0.13 * (rng.random() < wardrobe.coat)
        self.lower = color(pick(wardrobe.lowers))
        chances = (wardrobe.sleeves, wardrobe.trousers, wardrobe.skirt)
        self.long_sleeves, self.long_legs, self.skirt = (rng.random(3) < chances).tolist()
        self.shoes = color("black", "white", "brown", "red")
        self.carried, self.bag = pick(wardrobe.carried), color(*leather)
        self.side = 1 if rng.random() < 0.5 else -1  # on which the bag is
