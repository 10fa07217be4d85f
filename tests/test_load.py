"""A short run of tools/load.py: hundreds of calls by sixteen threads, mistakes among them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from embae_plugin.models.inference import FrozenTrunks
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "tools")
        yield importlib.import_module("load")


@pytest.fixture(scope="module")
def world(tool, tmp_path_factory):
    return tool.World("", "", tmp_path_factory.mktemp("world"))


def test_every_answer_is_right_and_every_mistake_refused(tool, world):
    assert world.apart > 100 * tool.TOLERANCE  # no camera's answer passes for another's
    assert len(set(world.guess)) > 6
    line, wrong = tool.load(world, 480)
    assert not wrong and "480 calls" in line and "0 wrong" in line


def test_speeds_are_of_all_ways_to_call(tool, world, monkeypatch):
    monkeypatch.setattr(tool, "TURNS", 1)
    lines = tool.speeds(world, 100)
    assert [line.partition(":")[0] for line in lines] == [
        "EmbAE, one caller, 256 crops a call", "EmbAE, 16 callers", "EmbAE, one caller",
        "torchreid, 16 callers", "torchreid, one caller", "callers against one of large batches",
    ]


def test_the_run_sees_answers_of_another_camera(tool, world, monkeypatch):
    right = FrozenTrunks._frozen
    monkeypatch.setattr(FrozenTrunks, "_frozen",
                        lambda self, trunk, key, count: right(self, trunk, (0, *key[1:]), count))
    assert any("named: off by" in said for said in tool.load(world, 160)[1])
