"""What a rule gives away, on curves made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from embae_plugin.evaluation.label_free import MEASURES
from embae_plugin.lab.commands.curves import chosen, stopping_table
from embae_plugin.lab.seeds import RunScores

SCORES = [0.30, 0.50, 0.40]


def curve(**measures):
    flat = {name: [3.0, 2.0, 1.0] for name in MEASURES}
    columns = {"rank1": SCORES, "mAP": [s / 2 for s in SCORES], **flat, **measures}
    return [{"epoch": n + 1, **{k: v[n] for k, v in columns.items()}} for n in range(3)]


def run(**curves):
    return RunScores(Path("log/a"), "viper", ("market1501",), 1, {}, curves)


def test_the_epoch_that_a_rule_keeps():
    rows = curve(effective_rank=[1.0, 9.0, 2.0])
    assert chosen(rows, "last")["epoch"] == 3
    assert chosen(rows, "effective_rank")["epoch"] == 2
    assert chosen(rows, "flip_agreement")["epoch"] == 1


def test_what_rules_give_away_over_curves_and_runs():
    good, late = curve(effective_rank=[1.0, 9.0, 2.0]), curve(effective_rank=[1.0, 2.0, 9.0])
    text = stopping_table([run(cam=good), run(new=late, empty=[])])
    body = text.splitlines()[4:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    lines = {name: numbers for name, *numbers in cells}
    assert text.startswith("2 curves of 2 run(s)")
    assert lines["last"] == ["0.1000", "0.1000", "+0.0000", "+0.0000",
                             "0.0500", "0.0500", "+0.0000", "+0.0000"]
    assert lines["effective rank"] == ["0.0500", "0.1000", "+0.0000", "+0.1000",
                                       "0.0250", "0.0500", "+0.0000", "+0.0500"]
    assert lines["flip agreement"][:4] == ["0.2000", "0.2000", "-0.1000", "-0.1000"]


def test_curves_without_measures_are_told():
    bare = [{"epoch": 1, "rank1": 0.1, "mAP": 0.1}]
    with pytest.raises(ValueError, match="none of log/a has measured epochs: train with"):
        stopping_table([run(cam=bare)])
