"""The words say what the numbers say, and no more."""

from __future__ import annotations

import pytest

from embae_plugin.commands.adaptation_summary import summary_text

CHANGE = {
    "queries": 10, "mean_cosine": 0.9, "new_neighbour": 0.25, "same_camera_before": 0.5,
    "same_camera_after": 0.4, "same_camera_by_chance": 0.3, "gap_before": 0.2, "gap_after": 0.1,
}
CONTENT = {
    "checkpoint": "a.pth", "images": 1234, "cameras": {"a": 1, "b": 2}, "skipped": 0,
    "seconds": 3.0, "method": {}, "change": CHANGE, "scores": [],
}


def said(**changes: object) -> str:
    return " ".join(summary_text({**CONTENT, **changes}).split())


def test_every_number_is_said():
    text = said(skipped=3, method={"method": "magic"})
    for words in (
        "a.pth to 1,234 crops of 2 camera(s), 3 more could not be used, in 3 seconds, by magic.",
        "moved a little: the mean cosine", "is 0.90", "For 25 % of the crops",
        "same camera for 50 % of the crops, and is for 40 % now (30 % if",
        "0.20 mean distances before and 0.10 after", "Not sure",
    ):
        assert words in text
    assert "could not be used" not in said()


@pytest.mark.parametrize(
    ("cosine", "words"), [(0.99, "hardly moved"), (0.9, "moved a little"), (0.5, "moved much")]
)
def test_how_much_it_moved(cosine, words):
    assert words in said(change={**CHANGE, "mean_cosine": cosine})


def test_one_camera_and_no_gap():
    assert "nothing can be said across cameras" in said(change={**CHANGE, "new_neighbour": None})
    assert "mean distances" not in said(change={**CHANGE, "gap_after": None})


def test_scores_take_the_place_of_doubt():
    row = {"rank1": 0.5, "rank1_nd": 0.4, "mAP": 0.3, "mAP_nd": 0.2, "queries": 9,
           "dropped_queries": 1, "dropped_queries_nd": 2}
    rows = [{"variant": "baseline", **row}, {"variant": "adapted", **row, "mAP": 0.4}]
    text = said(scores=rows)
    assert "0.400 (+0.100)" in text and "Not sure" not in text
    assert "Of 9 queries, 1 under the Market protocol and 2 under -nd" in text
