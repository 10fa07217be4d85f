"""The numbers against the gains that the paper prints beside them."""

from __future__ import annotations

import pytest

from embae_plugin.lab.reproduction.published import ALL_SCORES, PUL_SCORES, TABLES, table_rows

# As printed in brackets in Tables 1 to 4, row by row below each baseline.
GAINS = {
    1: [("fix", 0.132, 0.176, 0.098, 0.128), ("new", 0.135, 0.165, 0.103, 0.126),
        ("cam", 0.164, 0.184, 0.117, 0.134)],
    2: [("fix", 0.068, 0.105, 0.056, 0.077), ("new", 0.078, 0.1, 0.069, 0.082),
        ("cam", 0.115, 0.122, 0.084, 0.092)],
    3: [("pul", 0.086, 0.059), ("cam", 0.164, 0.117)],
    4: [("pul", 0.055, 0.035), ("cam", 0.115, 0.084)],
}


@pytest.mark.parametrize("number", GAINS)
def test_scores_agree_with_the_printed_gains(number):
    rows = {row.role: row for row in TABLES[number].rows}
    for role, *gains in GAINS[number]:
        base = rows[rows[role].against].scores
        found = [rows[role].scores[name] - base[name] for name in TABLES[number].columns]
        assert found == pytest.approx(gains, abs=1e-9)


@pytest.mark.parametrize(("single", "compared"), [(1, 3), (2, 4)])
def test_tables_of_the_same_models_agree(single, compared):
    ours = {row.role: row.scores for row in TABLES[single].rows}
    for row in TABLES[compared].rows:
        if row.role in ours:
            assert row.scores == {name: ours[row.role][name] for name in PUL_SCORES}


def test_unpublished_variants_only_on_demand_and_without_numbers():
    assert [row.role for row in table_rows(1)] == ["baseline", "fix", "new", "cam"]
    more = table_rows(1, all_variants=True)[4:]
    assert [(row.role, dict(row.scores)) for row in more] == [("all", {}), ("dataset", {})]
    assert table_rows(3, all_variants=True) == table_rows(3)
    assert TABLES[1].columns == ALL_SCORES and TABLES[3].columns == PUL_SCORES


def test_misprints_are_remarked_on():
    assert "0.273" in TABLES[3].footnotes[0] and "0.177" in TABLES[3].footnotes[0]
    assert "one dataset" in TABLES[2].footnotes[0]
