"""Typed settings: one class gives node, checks, identity, and the page that lists them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from yacs.config import CfgNode

from embae_plugin.settings.config import get_default_config
from embae_plugin.settings.fields import NODES, Settings, own_node, setting
from embae_plugin.settings.reference import settings_page


@dataclass(frozen=True)
class Inner(Settings):
    weight: float = setting(0.5, "A weight.", least=0, most=1)


@dataclass(frozen=True)
class Outer(Settings):
    node = "outer"
    rate: float = setting(0.1, "A rate.", above=0)
    words: tuple[str, ...] = setting(("a",), "Words.", choices=lambda: ["a", "bee"])
    lr: float = setting(1.0, "torchreid's.", key="train.lr")
    row: str = setting("x", "What a row stands for.", key="")
    threads: int = setting(1, "Changes nothing.", compared=False)
    inner: Inner = setting(Inner(), "More.")


def tree(**changes):
    outer = {"rate": 0.2, "words": ["bee"], "threads": 2, **changes}
    return CfgNode({"train": {"lr": 3.0}, "embae": {"outer": outer}})


def test_of_a_configuration_and_what_a_row_fixes():
    found = Outer.of(tree(), row="y")
    assert (found.rate, found.words, found.lr, found.row) == (0.2, ("bee",), 3.0, "y")
    assert Outer.keys() == {
        "rate": "embae.outer.rate", "words": "embae.outer.words", "lr": "train.lr",
        "threads": "embae.outer.threads",
    }


def test_an_identity_holds_everything_that_changes_the_result():
    assert Outer().identity() == {
        "rate": 0.1, "words": ["a"], "lr": 1.0, "row": "x", "inner.weight": 0.5,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "embae.outer.rate is 0.0; it must be greater than 0"),
        ({"rate": float("nan")}, "embae.outer.rate is nan"),
        ({"rate": "fast"}, "embae.outer.rate is fast"),
        ({"words": ["be"]}, r"embae.outer.words: 'be' is not one of a, bee \(did you mean bee"),
    ],
)
def test_limits_are_checked_by_key(changes, message):
    with pytest.raises(ValueError, match=message):
        Outer.of(tree(**changes))


def test_limits_in_words():
    about = next(about for _, about in Inner.fields())
    assert about.limits() == "at least 0 and at most 1"
    for weight in (0, 0.5, 1):
        Inner(weight)
    with pytest.raises(ValueError, match="weight is 1.1"):
        Inner(1.1)


def test_two_defaults_of_one_key_are_a_mistake_that_is_told(monkeypatch):
    @dataclass(frozen=True)
    class Other(Settings):
        node = "outer"
        rate: float = setting(0.3, "Another default.")

    monkeypatch.setattr("embae_plugin.settings.fields.NODES", {"one": Outer, "two": Other})
    with pytest.raises(ValueError, match="embae.outer.rate has two defaults, 0.1 and 0.3"):
        own_node()


def test_every_setting_has_a_help_and_a_default_within_its_limits():
    cfg = get_default_config()
    for cls in NODES.values():
        cls.of(cfg)
        for one in fields(cls):
            assert one.metadata["about"].help.endswith((".", "…")), (cls, one.name)


def test_the_page_is_current():
    page = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), (
        "python -m embae_plugin.settings.reference > docs/settings.md"
    )
