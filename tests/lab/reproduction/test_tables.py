"""Means, spreads, gains and differences by hand; no difference where it would mean nothing."""

from __future__ import annotations

import pytest

from embae_plugin.lab.reproduction.jobs import PulSetting
from embae_plugin.lab.reproduction.published import DUKE, TABLES, TARGET, TARGET_IMAGES, table_rows
from embae_plugin.lab.reproduction.tables import data_differences, fill

OWN, EMBEDDING = PulSetting(True), PulSetting(False, "mobilenetv1")
# Two seeds: cam gains 0.10 and 0.14 over 0.40 and 0.42.
SCORES = [
    {"baseline": {"rank1": 0.40, "mAP": 0.2}, "cam": {"rank1": 0.50, "mAP": None},
     "pul": {"rank1": 0.44}, "pul-baseline": {"rank1": 0.30}},
    {"baseline": {"rank1": 0.42, "mAP": 0.2}, "cam": {"rank1": 0.56, "mAP": 0.3}},
]


def row_of(number, role, scores=SCORES, pul=OWN, same_data=True):
    rows = table_rows(number, all_variants=True)
    row = next(row for row in rows if row.role == role)
    cells = fill(row, rows, TABLES[number].columns, scores, pul, same_data)
    return {cell.score: cell for cell in cells}


def test_cell_by_hand():
    cell = row_of(1, "cam")["rank1"]
    assert cell.values == (0.50, 0.56)
    assert cell.ours == pytest.approx(0.53)
    assert cell.spread == pytest.approx(0.06 / 2**0.5)  # the sample's: divided by n − 1
    assert cell.gain == pytest.approx(0.12)
    assert (cell.published, cell.published_gain) == (0.585, pytest.approx(0.164))
    assert cell.difference == pytest.approx(0.53 - 0.585)


def test_baseline_has_no_gain_and_one_seed_no_spread():
    cell = row_of(1, "baseline", SCORES[:1])["rank1"]
    assert (cell.gain, cell.published_gain, cell.spread) == (None, None, None)
    assert cell.difference == pytest.approx(0.40 - 0.421)


def test_missing_scores():
    cell = row_of(1, "cam")["mAP"]  # the first seed has none: a target without a match
    assert cell.values == (0.3,) and cell.gain == pytest.approx(0.1)
    empty = row_of(1, "cam", [])["mAP"]
    assert (empty.ours, empty.spread, empty.gain, empty.difference) == (None,) * 4
    assert empty.published == 0.294


def test_puls_own_baseline_or_the_embedding():
    own = row_of(3, "pul")["rank1"]
    assert own.gain == pytest.approx(0.14) and own.difference == pytest.approx(0.44 - 0.447)
    row = row_of(3, "pul", pul=EMBEDDING)
    assert row["rank1"].model == "PUL on the EmbAE embedding"
    assert row["rank1"].gain == pytest.approx(0.04)
    assert row["rank1"].difference is None and row["rank1"].published == 0.447
    base = row_of(3, "pul_baseline", pul=EMBEDDING)
    assert base["mAP"].variant == "baseline"
    assert base["mAP"].model == "Baseline PUL (= Baseline Embedding)"
    assert base["rank1"].difference is None
    # EmbAE's own rows stay comparable.
    assert row_of(3, "cam", pul=EMBEDDING)["rank1"].difference is not None


def test_other_networks_and_heads_are_named():
    other = PulSetting(True, "mobilenetv1")
    assert row_of(3, "pul", pul=other)["mAP"].model == "Fine-Tuned PUL (mobilenetv1)"
    assert row_of(3, "pul", pul=other)["rank1"].difference is None
    heads = PulSetting(False, "mobilenetv1", heads_only=True)
    assert row_of(3, "pul", pul=heads)["mAP"].model == "PUL on the EmbAE embedding, heads only"
    assert "mobilenetv1 trained by softmax" in other.note() and "head alone" in heads.note()
    assert OWN.note() == ""


def test_no_difference_on_other_data_or_without_a_number():
    cell = row_of(1, "cam", same_data=False)["rank1"]
    assert cell.difference is None and cell.published == 0.585 and cell.gain is not None
    extra = row_of(1, "all", [{"all": {"rank1": 0.5}, "baseline": {"rank1": 0.4}}])
    assert extra["rank1"].published is None and extra["rank1"].difference is None
    assert extra["rank1"].gain == pytest.approx(0.1)


def test_data_differences():
    table = TABLES[1]
    whole = {**TARGET_IMAGES, "source": 1}
    assert data_differences(table, DUKE, TARGET, whole) == ()
    assert data_differences(table, DUKE, TARGET, {}) == ()
    assert "trained on viper, not on dukemtmcreid" in data_differences(
        table, ["viper"], TARGET, whole)[0]
    part = data_differences(table, DUKE, TARGET, {**whole, "query": 740})
    assert "740 query" in part[0] and "3,368 query" in part[0]
    assert data_differences(table, DUKE, "cuhk01", whole) == (
        "the target is cuhk01, not market1501",)
    four = TABLES[2].sources
    assert data_differences(TABLES[2], four[::-1], TARGET, whole) == ()  # order is no difference
