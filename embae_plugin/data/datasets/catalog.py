"""The three built-in data sets: their cameras, how their people dress, and their sizes.

The sources are two different places in ordinary light. The target's six cameras each have a
strong appearance of their own (cast, tone, focus, background), which leaves the people
recognisable to whoever knows the camera, and misleads whoever does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from embae_plugin.data.datasets.cameras import Camera
from embae_plugin.data.datasets.people import Wardrobe


@dataclass(frozen=True)
class SetSpec:
    """One data set.

    index: its number in the random seeds. size: (width, height) of the crops in pixels.
    layout: "market" (three folders of JPEG files) or "ward" (one flat folder of PNG files).
    train_ids, test_ids: numbers of people; distractors: gallery pictures of other people.
    train_images, gallery_images: least and most pictures of a person for each camera.
    seen: chance that a person passes a camera at all (everybody passes at least two).
    """

    name: str
    index: int
    size: tuple[int, int]
    layout: str
    cameras: tuple[Camera, ...]
    wardrobe: Wardrobe
    train_ids: int
    test_ids: int
    train_images: tuple[tuple[int, int], ...]
    gallery_images: tuple[int, int]
    seen: float
    distractors: int = 0


_EVERYDAY = {
    "black": 5.0, "charcoal": 2.5, "grey": 2.5, "white": 3.0, "navy": 2.5, "denim": 1.5,
    "sky": 1.0, "brown": 0.8, "beige": 1.0, "olive": 0.7, "green": 0.8, "red": 1.2, "wine": 0.6,
    "pink": 0.8, "orange": 0.4, "yellow": 0.6, "purple": 0.6,
}
_BELOW = {"black": 4.0, "charcoal": 1.5, "denim": 3.0, "navy": 1.5, "grey": 1.5, "beige": 1.0,
          "brown": 0.7, "olive": 0.7, "white": 0.3}
_PATTERNS = {"plain": 5.0, "stripes": 1.0, "block": 1.0, "open": 1.0, "chest print": 1.0,
             "back print": 0.5}
_CARRIED = {"nothing": 1.2, "backpack": 0.5, "shoulder bag": 0.5, "hand bag": 0.5}
_SUMMER = Wardrobe(_EVERYDAY, _BELOW, _PATTERNS, _CARRIED, 0.25, 0.1, 0.55, 0.2)
_OFFICE = Wardrobe(
    {**_EVERYDAY, "white": 4.5, "sky": 2.0, "navy": 3.0}, _BELOW, _PATTERNS,
    {**_CARRIED, "backpack": 0.2}, sleeves=0.85, coat=0.1, trousers=0.95, skirt=0.2,
)
_AUTUMN = Wardrobe(
    {**_EVERYDAY, "brown": 2.0, "olive": 1.8, "wine": 1.4, "white": 1.5}, _BELOW, _PATTERNS,
    _CARRIED, sleeves=0.85, coat=0.3, trousers=0.9, skirt=0.12,
)

# Wall, ground and things of the places.
_PLAZA = ((150, 146, 138), (164, 160, 152), (104, 116, 96))
_STREET = ((112, 104, 98), (104, 104, 108), (84, 90, 116))
_CORRIDOR = ((188, 184, 172), (150, 148, 146), (136, 104, 78))
_PARK = ((120, 138, 120), (126, 134, 96), (62, 92, 52))
_SHOP = ((70, 74, 86), (132, 122, 114), (116, 124, 150))
_YARD = ((142, 90, 72), (120, 112, 100), (112, 88, 66))

_SOURCE_A = (
    Camera(*_PLAZA, (0, 40), (1.02, 1.0, 0.97)),
    Camera(*_PLAZA, (180, 140), (0.97, 1.0, 1.03), gamma=1.08, blur=0.6, falloff=-0.15),
    Camera(*_STREET, (90, 270), contrast=0.92, noise=5, scale=0.88),
    Camera(*_PARK, (0, 180), (1.0, 1.03, 0.95), gamma=0.94, falloff=0.25),
)
_SOURCE_B = (
    Camera(*_CORRIDOR, (0, 20), (1.05, 1.0, 0.90), gamma=1.05, noise=6),
    Camera(*_YARD, (180, 200), (0.95, 1.0, 1.06), contrast=1.08, blur=0.6),
    Camera(*_CORRIDOR, (90, 300), (1.0, 1.04, 0.96), gamma=0.92, blur=0.8),
)
_TARGET = (
    Camera(*_STREET, (0, 30), (1.10, 1.0, 0.86), gamma=0.9, contrast=1.06, falloff=0.3),
    Camera(*_SHOP, (180, 150), (0.90, 0.98, 1.12), gamma=1.2, blur=0.8, noise=7, falloff=-0.35),
    Camera(*_CORRIDOR, (90, 60), (0.95, 1.08, 0.91), contrast=0.78, blur=0.8, noise=6,
           perspective=0.2),
    Camera(*_YARD, (270, 225), (1.12, 1.08, 1.02), gamma=0.82, contrast=0.9, blur=0.6, noise=5),
    Camera(*_PARK, (0, 180), (1.02, 0.93, 1.06), blur=1.2, noise=6, scale=0.84),
    Camera(*_PLAZA, (120, 300), (1.12, 0.95, 0.81), gamma=1.12, contrast=0.9, blur=0.7, noise=8,
           scale=0.98, perspective=0.25),
)

SPECS: dict[str, SetSpec] = {
    spec.name: spec
    for spec in (
        SetSpec("synthetic_source_a", 1, (64, 128), "market", _SOURCE_A, _SUMMER, 160, 60,
                ((2, 5), (2, 4), (1, 4), (3, 6)), (1, 4), 0.9),
        SetSpec("synthetic_source_b", 2, (48, 128), "ward", _SOURCE_B, _OFFICE, 70, 30,
                ((3, 6), (3, 5), (4, 7)), (2, 4), 0.95),
        SetSpec("synthetic_target", 3, (64, 128), "market", _TARGET, _AUTUMN, 150, 100,
                ((2, 4), (1, 3), (1, 2), (2, 3), (1, 2), (1, 3)), (1, 4), 0.85, 150),
    )
}


def find_spec(name: str) -> SetSpec:
    """The data set called ``name``; raises ValueError naming the existing ones."""
    if name not in SPECS:
        raise ValueError(f"unknown built-in data set {name!r}, expected one of {', '.join(SPECS)}")
    return SPECS[name]
