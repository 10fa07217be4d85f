"""``embae benchmark`` at sizes at which it means nothing: every subject runs, files are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embae_plugin.commands.main import build_parser, main
from embae_plugin.lab.benchmark import ranking_speed
from embae_plugin.lab.benchmark.context import FULL, QUICK
from embae_plugin.lab.benchmark.machine import Rates
from embae_plugin.lab.benchmark.measure import Row
from embae_plugin.lab.commands import benchmark as verb
from tests.lab.benchmark.tiny import TINY, SameProcess


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny sizes, one process, and a machine whose rates need no measuring."""
    monkeypatch.setattr(verb, "QUICK", TINY)
    monkeypatch.setattr(verb, "FreshProcess", SameProcess)
    monkeypatch.setattr(ranking_speed, "FreshProcess", SameProcess)
    monkeypatch.setattr("embae_plugin.lab.benchmark.stages.IMAGES", 256)
    monkeypatch.setattr("embae_plugin.lab.benchmark.stock_torchreid.WORKERS", 1)
    rates = Rates(flops=1e9, flops_bf16=0.0, bytes=1e9)
    monkeypatch.setattr("embae_plugin.lab.commands.benchmark.measure_rates", lambda *_: rates)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("tiny")
def test_every_subject_has_its_rows_on_paper_and_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "docs" / "benchmarks.md"
    assert main(["benchmark", "--quick", "--out", str(out)]) == 0
    content = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    measured = [row for row in content["rows"] if row["device"] == "cpu" and row["ours"]]
    assert {row["subject"] for row in measured} == set(verb.SUBJECTS)
    for subject in ("ranking", "growth", "training", "features", "stages"):
        assert any(row["ratio"] for row in measured if row["subject"] == subject), subject
    for row in content["rows"]:
        if row["device"] == "cuda":
            command = f"`embae benchmark --only {row['subject']}`"
            assert row["note"] == f"not measured: no GPU on this machine; on one, {command} does it"
    assert content["command"] == "embae benchmark --quick"
    page, screen = out.read_text(encoding="utf-8"), capsys.readouterr().out
    for title in ("Ranking at Market size", "A target, end to end"):
        assert f"## {title}" in page and title in screen
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "benchmarks.json", "benchmarks.md"
    ]


@pytest.mark.usefixtures("tiny")
def test_chosen_subjects_alone_are_measured_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "benchmark --quick --only growth,ranking --repeats 2 --devices cpu"
    assert main(command.split()) == 0
    screen = capsys.readouterr().out
    assert "Ranking with large galleries" in screen and "Stage 1" not in screen
    assert "sizes: tiny, 2 repeats" in screen and "cuda" not in screen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny")
def test_a_subject_for_which_memory_is_short_leaves_a_row_and_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(_: object, device: str) -> list[Row]:
        raise MemoryError("a larger machine would do")

    monkeypatch.setitem(verb.SUBJECTS, "growth", ("growth", too_large))
    rows, _ = verb.run_subjects(["growth", "ranking"], TINY, 1)
    assert rows[0].note == "not measured: a larger machine would do"
    assert next(row for row in rows if row.subject == "ranking").ratio is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "ranking,sorting"], "there is no subject 'sorting'; there are ranking, growth"),
        (["--devices", "gpu"], "no device 'gpu'; there are cpu, cuda"),
        (["--quick", "--devices", "cuda"], "torch sees no cuda device here (`embae doctor`"),
        (["--repeats", "-1"], "--repeats -1: must be at least 1"),
        (["--out", "benchmarks.txt"], "must be a name that ends in .md"),
        (["--quick", "--only", "ranking", "--cython-dir", "."], "no compiled rank_cy extension"),
    ],
)
def test_what_the_user_can_mend_is_said_in_a_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["benchmark", *flags]) == 2
    assert message in capsys.readouterr().err


def test_sizes_and_the_command_in_the_report() -> None:
    parse = build_parser().parse_args
    assert verb.command_of(parse(["benchmark", "--quick"])) == "embae benchmark --quick"
    given = parse(["benchmark", "--only", "ranking", "--repeats", "5", "--cython-dir", "/x",
                   "--devices", "cpu", "--out", "a.md"])
    assert verb.command_of(given) == (
        "embae benchmark --only ranking --devices cpu --repeats 5 --cython-dir DIR"
    )
    assert (FULL.query, FULL.gallery, FULL.dim) == (3368, 15913, 128)
    assert FULL.large_galleries == (100_000, 500_000)
    assert QUICK.query < FULL.query
