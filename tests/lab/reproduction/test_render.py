"""The tables as people and programs read them."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from embae_plugin.lab.reproduction import runner
from embae_plugin.lab.reproduction.render import (
    as_csv,
    as_json,
    as_markdown,
    as_text,
    plot_tables,
    records,
)
from embae_plugin.lab.reproduction.runner import reproduce, table_results
from tests.lab.reproduction.fakes import IMAGES, FakeTraining, paper_plan


def tables_of(tmp_path, monkeypatch, images=IMAGES, numbers=(1, 3), seeds=(1, 2), **more):
    monkeypatch.setattr(runner, "look_at_data", lambda cfg: runner.Outcome(images))
    plan = paper_plan(tmp_path, tables=numbers, seeds=seeds)
    outcomes = reproduce(plan, FakeTraining(**more), lambda outcomes: None)
    return table_results(plan, outcomes)


def lines_of(text, start):
    return [" ".join(line.split()) for line in text.splitlines() if line.strip().startswith(start)]


def test_text_row_by_row(tmp_path, monkeypatch):
    text = as_text(tables_of(tmp_path, monkeypatch, seeds=(1, 3)))
    assert "Table 1. EmbAE trained on one data set: dukemtmcreid → market1501" in text
    assert lines_of(text, "Baseline  ")[0] == "Baseline Rank-1 0.421 0.402 ± 0.001 -0.019"
    cam = lines_of(text, "EmbAE-cam")[0]
    assert cam == "EmbAE-cam Rank-1 0.585 (+0.164) 0.452 ± 0.001 (+0.050) -0.133"
    assert "mean ± standard deviation over 2 seeds (1, 3)" in text
    assert "0.273" in text  # the misprint of Table 3


def test_other_data_show_no_difference(tmp_path, monkeypatch):
    tables = tables_of(tmp_path, monkeypatch, {**IMAGES, "gallery": 2376}, numbers=(1,), seeds=(1,))
    text = as_text(tables)
    assert "Difference" not in text and "Published (other data)" in text
    assert "no difference is taken" in text and "2,376 gallery" in text
    assert "one seed (1), so no spread" in text and "±" not in text
    assert lines_of(text, "EmbAE-fix") == ["EmbAE-fix Rank-1 0.553 (+0.132) 0.421 (+0.020)"]
    assert all(r["difference"] is None and r["data_differ"] for r in records(tables[0]))


def test_unfinished_rows_and_seeds_are_named(tmp_path, monkeypatch):
    tables = tables_of(tmp_path, monkeypatch, numbers=(3,), error=OSError("disk full"), at=4)
    text = as_text(tables)
    assert "Fine-Tuned PUL: 1 of these 2 seeds." in text and "failed: disk full" in text
    assert "EmbAE-cam: " not in text


def test_csv_and_json_hold_every_number(tmp_path, monkeypatch):
    tables = tables_of(tmp_path, monkeypatch)
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert len(rows) == 4 * 4 + 4 * 2
    row = next(r for r in rows if (r["table"], r["variant"], r["score"]) == ("3", "pul", "rank1"))
    assert float(row["ours"]) == pytest.approx(0.4715) and float(row["published"]) == 0.447
    assert [float(v) for v in row["values"].split()] == pytest.approx([0.471, 0.472])
    assert (row["seeds"], row["sources"], row["model"]) == ("1 2", "dukemtmcreid", "Fine-Tuned PUL")
    content = json.loads(json.dumps(as_json(tables), allow_nan=False))
    cells = {(r["variant"], r["score"]): r for r in content[0]["rows"]}
    assert cells["baseline", "mAP_nd"]["published"] == 0.211
    assert cells["baseline", "mAP_nd"]["gain"] is None
    assert content[1]["remarks"][-1].startswith("The paper's Table 3 prints 0.273")


def test_markdown(tmp_path, monkeypatch):
    page = as_markdown(tables_of(tmp_path, monkeypatch), "embae reproduce --preset paper")
    assert "Made by `embae reproduce --preset paper`" in page
    assert "\n\n| Model" in page and "\n\n- Ours: mean" in page and page.endswith("0.177.\n")


def test_plot(tmp_path, monkeypatch):
    tables = tables_of(tmp_path, monkeypatch)
    plot_tables(tmp_path / "two.png", tables)
    plot_tables(tmp_path / "one.png", tables[:1])
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.height > 1.5 * one.height and two.width == one.width
        assert (np.asarray(two.convert("L")) < 100).mean() > 0.01  # something is drawn
    plot_tables(tmp_path / "none.png", table_results(paper_plan(tmp_path, tables=(1,)), {}))
    assert not (tmp_path / "none.png").exists()
