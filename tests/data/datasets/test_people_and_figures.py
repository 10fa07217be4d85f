"""Identities and figures: repeatable, and different where they have to be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from embae_plugin.data.datasets.body import Placement, Pose, draw_figure
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.geometry import Tube, View, capsule, shade
from embae_plugin.data.datasets.people import Person, cloth_color, pick, sample_person

WARDROBE = SPECS["synthetic_source_a"].wardrobe
FRONT, SIDE, BACK = 0.0, math.pi / 2, math.pi


def person(**changes: object) -> Person:
    """A plain person in white, changed as told."""
    plain = sample_person(np.random.default_rng(0), WARDROBE)
    defaults: dict[str, object] = {
        "carried": "nothing", "chest_print": None, "back_print": None, "pattern": "plain",
        "inner_color": None, "hat_color": None, "scarf_color": None, "hair": "short",
        "upper_color": (250, 250, 250), "carried_color": (255, 0, 0), "sleeve": 1.0, "hem": 0.46,
        "shoes": (20, 20, 20),
    }  # fmt: skip
    return replace(plain, **{**defaults, **changes})  # type: ignore[arg-type]


def draw(who: Person, heading: float) -> np.ndarray:
    return np.asarray(draw_figure(who, Pose(heading, 0.0), Placement(), (64, 128)), np.int16)


def red_pixels(pixels: np.ndarray) -> int:
    red, green, blue, alpha = np.moveaxis(pixels, 2, 0)
    return int(((red > green + 60) & (red > blue + 60) & (alpha > 200)).sum())


def test_a_seed_is_a_person():
    same = [sample_person(np.random.default_rng([5, 1]), WARDROBE) for _ in range(2)]
    other = sample_person(np.random.default_rng([5, 2]), WARDROBE)
    assert same[0] == same[1] != other


def test_pick_follows_the_weights():
    rng = np.random.default_rng(0)
    drawn = [pick(rng, {"never": 0.0, "often": 3.0, "rare": 1.0}) for _ in range(2000)]
    assert drawn.count("never") == 0
    assert drawn.count("often") / 2000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize(("family", "channel"), [("red", 0), ("green", 1), ("navy", 2)])
def test_a_colour_family_has_its_colour(family, channel):
    for seed in range(20):
        color = cloth_color(np.random.default_rng(seed), family)
        assert np.argmax(color) == channel
        assert all(0 <= value <= 255 for value in color)


def test_many_people_share_the_colour_of_their_clothes():
    people = [sample_person(np.random.default_rng([0, k]), WARDROBE) for k in range(160)]
    upper = np.array([p.upper_color for p in people], float)
    distance = np.linalg.norm(upper[:, None] - upper[None], axis=2) + 1e9 * np.eye(len(people))
    # Within 30 of 441 grey levels: not to be told apart by this across cameras.
    assert np.mean(distance.min(1) < 30) > 0.8


def test_a_figure_is_inside_its_crop_and_stands_on_its_shadow():
    pixels = draw(person(), FRONT)
    rows, columns = np.nonzero(pixels[..., 3] == 255)
    assert pixels.shape == (128, 64, 4)
    assert 2 <= rows.min() < 20 and 118 < rows.max() <= 126
    assert abs(columns.mean() - 31.5) < 3


def test_a_backpack_is_seen_from_behind():
    carrying = person(carried="backpack")
    front, side, back = (red_pixels(draw(carrying, heading)) for heading in (FRONT, SIDE, BACK))
    assert back > side > front > 0  # the straps show in front
    assert red_pixels(draw(person(), BACK)) == 0


def test_a_print_is_seen_from_its_own_side_only():
    shown = person(chest_print=(0.6, 0.66, 0.78), print_color=(255, 0, 0))
    assert red_pixels(draw(shown, FRONT)) > 20
    assert red_pixels(draw(shown, BACK)) == 0


@pytest.mark.parametrize("carried", ["shoulder bag", "hand bag", "shopping bag", "umbrella"])
def test_every_carried_thing_is_seen(carried):
    assert red_pixels(draw(person(carried=carried, carried_side=1), FRONT)) > 15


@pytest.mark.parametrize("pattern", ["stripes", "checks", "pinstripe", "block"])
def test_every_pattern_shows_from_all_sides(pattern):
    patterned = person(pattern=pattern, pattern_color=(255, 0, 0))
    assert min(red_pixels(draw(patterned, heading)) for heading in (FRONT, SIDE, BACK)) > 25


def test_a_view_turns_and_tilts():
    assert View(0.0).project(1.0, 2.0, 3.0) == pytest.approx((1.0, 2.0, 3.0))
    assert View(SIDE).project(0.0, 0.0, 1.0) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)
    assert View(BACK).project(1.0, 0.0, 0.0) == pytest.approx((-1.0, 0.0, 0.0), abs=1e-12)
    # From above, what is nearer to the viewer appears lower.
    right, up, depth = View(0.0, elevation=math.pi / 6).project(0.0, 0.0, 1.0)
    assert (right, up, depth) == pytest.approx((0.0, -0.5, 1.0))


def test_a_tube_is_as_wide_as_it_is_deep_from_the_side():
    tube = Tube(((0.0, 2.0, 1.0, 0.0), (1.0, 4.0, 3.0, 0.0)))
    assert tube.at(0.5) == pytest.approx((3.0, 2.0, 0.0))
    assert tube.at(9.0) == pytest.approx((4.0, 3.0, 0.0))
    assert max(x for x, _ in tube.outline(View(FRONT))) == pytest.approx(4.0)
    assert max(x for x, _ in tube.outline(View(SIDE))) == pytest.approx(3.0)
    assert tube.patch(View(BACK), (-0.5, 0.5), (0.2, 0.8)) is None
    piece = tube.patch(View(FRONT), (-0.5, 0.5), (0.5, 0.5))
    assert piece is not None and max(x for x, _ in piece) == pytest.approx(3.0 * math.sin(0.5))


def test_a_capsule_reaches_its_radius_around_both_ends():
    points = capsule(0.0, 0.0, 10.0, 0.0, 1.0, 2.0)
    assert min(x for x, _ in points) == pytest.approx(-1.0)
    assert max(x for x, _ in points) == pytest.approx(12.0)
    assert max(y for _, y in points) == pytest.approx(2.0)
    assert len(capsule(3.0, 3.0, 3.0, 3.0, 1.0, 1.0)) == len(points)  # no length, no error


def test_shade_stays_in_eight_bits():
    assert shade((100, 200, 250), 2.0) == (200, 255, 255)
    assert shade((100, 200, 250), 0.5) == (50, 100, 125)
