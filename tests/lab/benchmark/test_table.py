"""The table's cells, remarks and files."""

from __future__ import annotations

import json

from embae_plugin.lab.benchmark.measure import (
    Measured,
    Row,
    as_json,
    cell,
    markdown,
    not_measured,
    subject_table,
    text,
)

ROWS = [
    Row(
        "ranking", "all queries", "cpu", Measured((69.0, 70.0, 71.0), "s", "torchreid, Python"),
        Measured((0.5,), "s"), 0.25, "operations of the product", "one process", "many",
    ),
    Row(
        "ranking", "some queries", "cpu", Measured((6.9,), "s", "torchreid, Python"),
        Measured((0.05,), "s"), 0.025, "operations of the product", "one process", "many",
    ),
    not_measured("ranking", "all queries", "cuda", "no GPU on this machine"),
    Row("training", "stage 1", "cpu", Measured((11.0,), "img/s"), Measured((23.4,), "img/s")),
]


def test_cells_hold_median_spread_and_unit() -> None:
    assert cell(Measured((1.0, 2.0, 4.0), "s")) == "2 ± 1.5 s"
    assert cell(Measured((12345.6,), "MB")) == "12,346 MB"
    assert cell(Measured((0.01234,), "s")) == "0.0123 s"
    assert cell(None) == "–"


def test_equal_remarks_are_said_once_and_gaps_are_explained() -> None:
    table = subject_table(ROWS[:3], "simple")
    first, second, third = (line for line in table.splitlines() if "queries" in line)
    assert "all queries [1]" in first and "some queries [1]" in second
    assert "70 ± 1 s" in first and "0.5 s" in first and "140 ×" in first and first.endswith(" 2")
    assert "all queries [2]" in third and third.count("–") == 5
    assert (
        "1. against torchreid, Python; one process; floor: operations of the product."
        in table.splitlines()
    )
    assert table.splitlines()[-1] == "2. not measured: no GPU on this machine."
    assert table.startswith("many.\n")


def test_sizes_that_differ_by_device_are_told_apart() -> None:
    rows = [
        Row("x", "a", "cpu", size="10 images"),
        Row("x", "b", "cpu", size="10 images"),
        Row("x", "a", "cuda", size="100 images"),
    ]
    assert subject_table(rows, "simple").startswith("cpu: 10 images; cuda: 100 images.\n")


def test_a_page_has_the_command_the_machine_and_every_subject() -> None:
    page = markdown(ROWS, {"processor": "two cores"}, "embae benchmark")
    assert page.startswith("# Benchmarks\n\nMade by `embae benchmark`.\n\n- processor: two cores\n")
    assert "## Ranking at Market size" in page and "## Stage 1 training" in page
    assert "| stage 1 " in page and "2.13 ×" in page
    screen = text(ROWS, {"processor": "two cores"})
    assert "Ranking at Market size" in screen and screen.endswith("processor: two cores")


def test_the_page_begins_with_one_table_of_all_rows() -> None:
    page = markdown(ROWS, {}, "embae benchmark")
    table = page.split("## Everything in one table")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("| R") or "| S" in line]
    assert len(lines) == len(ROWS)
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells == ["Ranking at Market size", "all queries", "cpu", "0.5 s", "140 ×", "2"]
    assert lines[2].count("–") == 3  # the gap


def test_the_json_holds_every_repeat() -> None:
    content = json.loads(as_json(ROWS, {"date": "today"}, "embae benchmark"))
    assert content["facts"] == {"date": "today"}
    first, gap = content["rows"][0], content["rows"][2]
    assert first["stock"]["values"] == [69.0, 70.0, 71.0]
    assert (first["ratio"], first["times_floor"]) == (140.0, 2.0)
    assert gap["ours"] is None and gap["ratio"] is None
