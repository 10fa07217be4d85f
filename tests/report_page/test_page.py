"""The page's text: complete, escaped, self-contained, the same each time."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from embae_plugin.report_page import Settings, gather, render
from tests.report_page.conftest import SETTINGS

SECTIONS = ("scores", "curves", "map", "distances", "cameras", "lists", "method")


def test_every_section_is_there(page, unlabelled_page):
    found = re.findall(r'<section id="(\w+)"', page)
    assert found == list(SECTIONS)
    found = re.findall(r'<section id="(\w+)"', unlabelled_page)
    assert found == [name for name in SECTIONS if name != "curves"]
    assert "No identities are known" in unlabelled_page and "Most changed" in unlabelled_page
    for one in (page, unlabelled_page):
        targets = re.findall(r'<a [^>]*href="#([\w-]+)"', one)
        assert targets and all(f'id="{name}"' in one for name in targets)


def test_scores_are_those_of_the_content(pair, page):
    content = gather(pair, SETTINGS)
    [rank1] = [line for line in content.scores if (line.protocol, line.score) == ("nd", "Rank-1")]
    assert rank1.after > rank1.before and rank1.low <= rank1.after - rank1.before <= rank1.high
    assert f"<td>{rank1.before:.3f}</td><td>{rank1.after:.3f}</td>" in page


def test_verdicts_have_a_sign_and_a_word(page, unlabelled_page):
    for sign, word in (("✓", "right"), ("✗", "wrong"), ("–", "ignored")):
        assert re.search(rf"<b>{sign}</b><span class=\"hidden\"> {word}</span>", page)
    assert "<b>+</b>" in unlabelled_page or "<b>=</b>" in unlabelled_page


def test_nothing_from_outside_and_no_script(page, unlabelled_page):
    for one in (page, unlabelled_page):
        bare = re.sub(r'"data:image/jpeg;base64,[^"]*"', '""', one)
        bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", bare)
        assert not re.search(r"https?:|<script|<link (?!rel=\"icon\")|@import|<iframe", bare)
        assert "default-src 'none'" in one


def test_names_are_escaped(pair):
    settings = replace(SETTINGS, lists=99)
    evil = replace(pair, camera_names=('<img src=x onerror="1">', *pair.camera_names[1:]),
                   pid_names=("</section><i>", *pair.pid_names[1:]))
    text = render(gather(evil, settings))
    assert html.escape(settings.title) in text and "<b>title" not in text
    assert "&lt;script&gt;" in text and "<script" not in text
    assert "&lt;img src=x" in text and "<img src=x" not in text and "<i>" not in text


def test_the_same_page_each_time(pair, page):
    assert render(gather(pair, SETTINGS)) == page
    other = render(gather(pair, replace(SETTINGS, seed=1)))
    assert other != page


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert set(used) <= set(ids)


def test_plots_take_the_page_s_colours(page):
    assert "#010203" not in page and "currentColor" in page and page.count("<svg") == 8


def test_pictures_that_are_not_there(pair, tmp_path):
    text = render(gather(replace(pair, root=str(tmp_path)), SETTINGS))
    assert "could not be read below the folder" in text and "no picture" in text
    assert "data:image/jpeg" not in text


def test_one_camera_and_few_crops(unlabelled):
    one = replace(unlabelled, cameras=unlabelled.cameras * 0, camera_names=("a",))
    text = render(gather(one, SETTINGS))
    assert "All crops are of one camera" in text and "no crop on another one" in text


def test_identities_on_one_camera_each(pair):
    alone = replace(pair, cameras=pair.cameras * 0, camera_names=("a",))
    assert "nothing can be scored" in render(gather(alone, SETTINGS))


def test_impossible_settings():
    with pytest.raises(ValueError, match="map_limit of a report: 0 is not at least 1"):
        Settings(map_limit=0)
