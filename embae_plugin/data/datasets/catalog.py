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
}  # fmt: skip
_SUMMER = Wardrobe(
    uppers={"vest": 0.8, "t-shirt": 5.0, "shirt": 2.0, "pullover": 0.5, "jacket": 0.6,
            "dress": 1.2},
    lowers={"trousers": 3.0, "leggings": 0.8, "shorts": 3.0, "skirt": 1.2},
    upper_colors=_EVERYDAY,
    lower_colors={"black": 3, "denim": 3, "navy": 1.5, "beige": 1.5, "grey": 1.5, "olive": 0.7,
                  "white": 0.6, "red": 0.3, "brown": 0.5},
    patterned=0.30,
    printed=0.35,
    carrying={"backpack": 0.55, "shoulder bag": 0.4, "hand bag": 0.35, "shopping bag": 0.25,
              "umbrella": 0.04},
)  # fmt: skip
_OFFICE = Wardrobe(
    uppers={"t-shirt": 1.0, "shirt": 4.0, "pullover": 2.0, "jacket": 2.5, "dress": 0.7},
    lowers={"trousers": 5.0, "leggings": 0.8, "shorts": 0.3, "skirt": 1.3},
    upper_colors={**_EVERYDAY, "white": 4.5, "sky": 2.0, "navy": 3.0},
    lower_colors={"black": 4, "charcoal": 2, "navy": 2, "denim": 1.5, "grey": 2, "beige": 1},
    patterned=0.28,
    printed=0.12,
    carrying={"backpack": 0.25, "shoulder bag": 0.5, "hand bag": 0.5},
)
_AUTUMN = Wardrobe(
    uppers={"t-shirt": 1.5, "shirt": 2.0, "pullover": 2.5, "jacket": 3.0, "coat": 2.5,
            "dress": 0.4},
    lowers={"trousers": 5.0, "leggings": 1.5, "shorts": 0.8, "skirt": 1.0},
    upper_colors={**_EVERYDAY, "brown": 2.0, "olive": 1.8, "wine": 1.4, "white": 1.5},
    lower_colors={"black": 4, "charcoal": 1.5, "denim": 3, "navy": 1.5, "brown": 1, "olive": 0.8,
                  "grey": 1, "beige": 0.8},
    patterned=0.28,
    printed=0.20,
    carrying={"backpack": 0.6, "shoulder bag": 0.5, "hand bag": 0.3, "shopping bag": 0.4,
              "umbrella": 0.08},
)  # fmt: skip

_SOURCE_A = (
    Camera("plaza", clutter=0.6, headings=(0, 40), gains=(1.02, 1.0, 0.97), light=0.4),
    Camera("plaza", clutter=0.6, headings=(180, 140), gains=(0.97, 1.0, 1.03), gamma=1.08,
           light=-0.4, blur=0.6),
    Camera("street", clutter=0.6, headings=(90, 270), elevation=14, contrast=0.92, noise=5,
           scale=0.88),
    Camera("park", clutter=0.6, headings=(0, 180), gains=(1.0, 1.03, 0.95), gamma=0.94, blur=0.5,
           falloff=0.25),
)  # fmt: skip
_SOURCE_B = (
    Camera("corridor", clutter=0.6, headings=(0, 20), stretch=1.0, elevation=18,
           gains=(1.05, 1.0, 0.90), gamma=1.05, noise=6),
    Camera("yard", clutter=0.6, headings=(180, 200), stretch=1.0, elevation=12,
           gains=(0.95, 1.0, 1.06), contrast=1.08, blur=0.6),
    Camera("corridor", clutter=0.6, headings=(90, 300), stretch=1.0, elevation=22,
           gains=(1.0, 1.04, 0.96), gamma=0.92, detail=0.75),
)  # fmt: skip
_TARGET = (
    Camera("street", clutter=0.7, headings=(0, 30), gains=(1.06, 1.0, 0.91), gamma=0.93,
           contrast=1.06, blur=0.5, light=0.6, falloff=0.3, occluded=0.08),
    Camera("shop", clutter=0.7, headings=(180, 150), gains=(0.92, 0.99, 1.07), gamma=1.15,
           saturation=0.92, blur=0.7, noise=6, light=-0.6, falloff=0.3, crowded=0.12),
    Camera("corridor", clutter=0.7, headings=(90, 60), elevation=24, perspective=0.2,
           gains=(0.97, 1.05, 0.93), cast=0.03, contrast=0.88, offset=0.04, blur=0.7, noise=6,
           quality=75),
    Camera("yard", clutter=0.7, headings=(270, 225), elevation=16, gains=(1.07, 1.05, 1.02),
           gamma=0.88, saturation=0.86, offset=0.05, blur=0.6, misplaced=0.035),
    Camera("park", clutter=0.7, headings=(0, 180), elevation=10, scale=0.84,
           gains=(1.02, 0.95, 1.04), cast=0.04, detail=0.55, blur=0.6, motion=3, noise=6,
           quality=65),
    Camera("plaza", clutter=0.7, headings=(120, 300), elevation=28, perspective=0.3, scale=0.98,
           gains=(1.09, 0.96, 0.85), gamma=1.10, contrast=0.93, blur=0.6, noise=8, occluded=0.10,
           crowded=0.12),
)  # fmt: skip

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
}  # fmt: skip


def find_spec(name: str) -> SetSpec:
    """The data set called ``name``; raises ValueError naming the existing ones."""
    if name not in SPECS:
        raise ValueError(f"unknown built-in data set {name!r}, expected one of {', '.join(SPECS)}")
    return SPECS[name]
