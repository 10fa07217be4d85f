"""Tables as the paper prints them, results.json, and plots that are written whole."""

from __future__ import annotations

import json
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from embae_plugin.evaluation.metrics import Scores
from embae_plugin.evaluation.ranking import evaluate_embeddings
from embae_plugin.evaluation.score_table import (
    dropped_note,
    plot_scores,
    score_row,
    score_table,
    write_results,
    write_text,
)


def scores(rank1: float, mean: float, queries: int = 10, dropped: int = 0) -> Scores:
    cmc = np.linspace(rank1, 1.0, 50)
    return Scores(cmc, mean, mean - 0.01, queries, dropped)


NO_QUERY = Scores(np.full(50, math.nan), math.nan, math.nan, 0, 12)


def row(variant: str, *values: float) -> dict:
    r1, nd, mean, mean_nd = values
    return score_row(variant, {"market": scores(r1, mean), "nd": scores(nd, mean_nd)})


# The paper's table 1, DukeMTMC-reID to Market-1501
PAPER = [
    row("baseline", 0.421, 0.485, 0.177, 0.211),
    row("fix", 0.553, 0.661, 0.275, 0.339),
    row("new", 0.556, 0.650, 0.280, 0.337),
    row("cam", 0.585, 0.669, 0.294, 0.345),
]


def test_a_row_has_every_score_under_its_name():
    got = score_row("cam", {"market": scores(0.5, 0.25, 10, 2), "nd": scores(0.6, 0.35, 9, 3)},
                    ranks=(1, 50))
    assert got == {
        "variant": "cam", "queries": 12,
        "rank1": 0.5, "rank50": 1.0, "mAP": 0.25, "mAP_trapezoid": 0.24, "dropped_queries": 2,
        "rank1_nd": 0.6, "rank50_nd": 1.0, "mAP_nd": 0.35, "mAP_nd_trapezoid": pytest.approx(0.34),
        "dropped_queries_nd": 3,
    }


def test_the_keys_that_readers_of_results_rely_on():
    wanted = {"variant", "rank1", "rank1_nd", "mAP", "mAP_nd", "mAP_trapezoid", "mAP_nd_trapezoid",
              "queries", "dropped_queries", "dropped_queries_nd"}
    assert wanted <= set(PAPER[0])
    # rank-1 is there whatever ranks are asked for
    assert wanted <= set(score_row("x", {"market": NO_QUERY, "nd": NO_QUERY}, ranks=(5,)))
    only_nd = score_row("x", {"nd": scores(0.5, 0.2, 8, 4)})
    assert only_nd["queries"] == 12 and only_nd["rank1_nd"] == 0.5 and "rank1" not in only_nd


def test_a_score_without_a_query_is_null():
    got = score_row("cam", {"market": scores(0.5, 0.25, 12), "nd": NO_QUERY})
    assert got["rank1_nd"] is None and got["mAP_nd"] is None and got["mAP_nd_trapezoid"] is None
    assert (got["queries"], got["dropped_queries"], got["dropped_queries_nd"]) == (12, 0, 12)


def test_rows_of_a_ranking_are_fractions():
    rng = np.random.default_rng(0)
    pids, cams = np.arange(12) % 4, np.arange(12) % 3
    found = evaluate_embeddings(rng.normal(size=(12, 4)), rng.normal(size=(12, 4)), pids, pids,
                                cams, cams)
    got = score_row("baseline", found)
    for key, value in got.items():
        if key.startswith(("rank", "mAP")):
            assert 0 <= value <= 1 and type(value) is float


def test_the_table_is_the_papers():
    lines = score_table(PAPER).splitlines()
    assert lines[0].split() == ["Model", "Rank-1", "Rank-1-nd", "mAP", "mAP-nd"]
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "baseline 0.421 0.485 0.177 0.211",
        "fix 0.553 (+0.132) 0.661 (+0.176) 0.275 (+0.098) 0.339 (+0.128)",
        "new 0.556 (+0.135) 0.650 (+0.165) 0.280 (+0.103) 0.337 (+0.126)",
        "cam 0.585 (+0.164) 0.669 (+0.184) 0.294 (+0.117) 0.345 (+0.134)",
    ]


def test_a_loss_is_shown_with_its_sign():
    table = score_table([PAPER[0], row("all", 0.321, 0.485, 0.177, 0.2)])
    assert "0.321 (-0.100)" in table and "0.485 (+0.000)" in table and "0.200 (-0.011)" in table


def test_without_a_baseline_there_are_no_gains():
    assert "(" not in score_table(PAPER[1:])


def test_what_is_missing_is_a_dash():
    empty = score_row("cam", {"market": scores(0.5, 0.25), "nd": NO_QUERY})
    line = " ".join(score_table([PAPER[0], empty]).splitlines()[-1].split())
    assert line == "cam 0.500 (+0.079) – 0.250 (+0.073) –"
    no_base = score_table([{**empty, "variant": "baseline"}, PAPER[1]]).splitlines()[-1]
    assert " 0.661  " in no_base  # nothing to measure a gain against


def test_no_rows_make_a_head_and_nothing_else():
    assert "Rank-1" in score_table([]) and dropped_note([]) == ""


def test_dropped_queries_are_told():
    both = score_row("baseline", {"market": scores(0.5, 0.2, 10, 2), "nd": scores(0.5, 0.2, 9, 3)})
    assert dropped_note([both]) == (
        "Of 12 queries, 2 under the Market protocol and 3 under -nd have no match in the gallery "
        "on another camera; they are left out of the averages."
    )
    assert dropped_note(PAPER) == ""
    one = score_row("baseline", {"market": scores(0.5, 0.2, 10, 2)})
    assert "2 under the Market protocol have" in dropped_note([one])
    assert "-nd" not in dropped_note([one])


def test_results_are_plain_json(tmp_path):
    path = tmp_path / "run" / "results.json"
    rows = [PAPER[0], score_row("cam", {"market": scores(0.5, 0.25), "nd": NO_QUERY})]
    write_results(path, "market1501", rows, sources=["viper"], seed=3, seconds={"embedding": 1.5})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"target": "market1501", "rows": rows, "sources": ["viper"], "seed": 3,
                       "seconds": {"embedding": 1.5}}
    assert content["rows"][1]["rank1_nd"] is None


def test_nan_in_a_row_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, "t", [])
    with pytest.raises(ValueError):
        write_results(path, "t", [{"variant": "x", "mAP": math.nan}])
    assert json.loads(path.read_text())["rows"] == [] and len(list(tmp_path.iterdir())) == 1


def test_a_failure_while_writing_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_text(path, "old – one\n")

    def full(self, text, **options):
        self.write_bytes(text[:4].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(type(path), "write_text", full)
        write_text(path, "the new one")
    assert path.read_text(encoding="utf-8") == "old – one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_names_that_are_not_utf8_are_written_with_escapes(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "x\udcff.png")
    assert path.read_text(encoding="utf-8") == "x\\udcff.png"


@pytest.mark.parametrize("rows", [PAPER, PAPER[:1], [score_row("baseline", {"nd": NO_QUERY})]],
                         ids=["four", "one", "empty"])
def test_the_plot_is_a_picture(tmp_path, rows):
    path = tmp_path / "deep" / "scores.png"
    plot_scores(path, "market1501", rows)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 300
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    assert [p.name for p in path.parent.iterdir()] == ["scores.png"]


def test_plotting_leaves_the_callers_backend_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    plot_scores(tmp_path / "scores.png", "t", PAPER)
    assert matplotlib.rcParams["backend"] == "svg"
