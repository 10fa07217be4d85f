"""Averages over seeds, worked out by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from embae_plugin.lab.commands.curves import schedule_table
from embae_plugin.lab.seeds import mean_text, read_run, read_runs, spread_table


def write_run(folder: Path, seed: int, base: float, curve: list[float] | None = None) -> Path:
    """A run folder whose baseline scores ``base``; ``fix`` ends at the last number of ``curve``."""
    curve = curve or [base]
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("rank1", "rank1_nd", "mAP", "mAP_nd")
    rows = [{"variant": "baseline", **dict.fromkeys(keys, base)},
            {"variant": "fix", **dict.fromkeys(keys, curve[-1])}]
    content = {"target": "market1501", "sources": ["viper"], "seed": seed, "rows": rows}
    (folder / "results.json").write_text(json.dumps(content))
    epochs = [{"phase": "embedding", "epoch": number, "reconstruction": 1 / number,
               **dict.fromkeys(keys, value)} for number, value in enumerate(curve, 1)]
    (folder / "history.json").write_text(json.dumps({"transfer-fix": epochs}))
    return folder


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "a", 1, 0.300, [0.340, 0.320])
    write_run(tmp_path / "b", 2, 0.100, [0.110, 0.140])
    return read_runs([tmp_path / "a", tmp_path / "b"])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_mean_has_the_sample_deviation_and_one_value_has_none():
    values = [0.1, 0.2, 0.6]
    assert mean_text(values) == f"0.300 ± {statistics.stdev(values):.3f}" == "0.300 ± 0.265"
    assert mean_text([0.25]) == "0.250"
    assert mean_text([0.25], signed=True) == "+0.250"
    assert mean_text([]) == "–"


def test_gains_are_taken_within_each_run(runs):
    lines = [cells(line) for line in spread_table(runs).splitlines()]
    assert lines[0] == ["Model", "Rank-1", "Rank-1-nd", "mAP", "mAP-nd"]
    assert lines[2] == ["baseline", *["0.200 ± 0.141"] * 4]
    assert lines[3] == ["fix", *["0.230 ± 0.127"] * 4]
    assert lines[4] == ["fix, gain", *["+0.030 ± 0.014"] * 4]  # +0.02 and +0.04
    assert len(lines) == 5


def test_the_cost_of_the_last_epoch_is_against_each_runs_own_best(runs):
    (line,) = [cells(line) for line in schedule_table(runs).splitlines()[2:]]
    # The first run is best at epoch 1 and loses 0.02; the second is best at the end.
    assert line == ["fix", *["0.230 ± 0.127", "1, 2", "0.010 ± 0.014"] * 2]


def test_a_variant_that_one_run_lacks_is_left_out(runs):
    del runs[1].rows["fix"], runs[1].curves["fix"]
    assert "fix" not in spread_table(runs)
    assert schedule_table(runs) == ""


def test_without_a_baseline_there_is_no_gain(runs):
    for run in runs:
        del run.rows["baseline"]
    assert "gain" not in spread_table(runs)


def test_a_run_without_history_has_no_curves(tmp_path):
    (write_run(tmp_path / "a", 1, 0.3) / "history.json").unlink()
    assert read_run(tmp_path / "a").curves == {}


def test_what_is_no_finished_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results.json does not exist: .*data.save_dir"):
        read_run(tmp_path)
    write_run(tmp_path / "a", 1, 0.3)
    (tmp_path / "a" / "history.json").write_text("{")
    with pytest.raises(ValueError, match="history.json is not what embae train writes"):
        read_run(tmp_path / "a")
    (tmp_path / "a" / "history.json").unlink()
    (tmp_path / "a" / "results.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="results.json is not what embae train writes"):
        read_run(tmp_path / "a")


def test_runs_of_different_pairs_or_of_the_same_seed_are_not_averaged(tmp_path):
    folders = [write_run(tmp_path / name, seed, 0.3) for name, seed in (("a", 1), ("b", 1))]
    with pytest.raises(ValueError, match="seed 1 comes more than once"):
        read_runs(folders)
    content = json.loads((folders[1] / "results.json").read_text())
    (folders[1] / "results.json").write_text(json.dumps({**content, "target": "viper", "seed": 2}))
    with pytest.raises(ValueError, match="differ in the target: market1501 and viper"):
        read_runs(folders)


def test_shares_of_the_gap_where_all_runs_have_the_supervised_bound(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    write_run(folders[0], 1, 0.300, [0.340])
    write_run(folders[1], 2, 0.100, [0.200])
    for folder, top in zip(folders, (0.500, 0.300), strict=True):
        content = json.loads((folder / "results.json").read_text())
        row = {"variant": "supervised", "rank1": top, "rank1_nd": top, "mAP": top, "mAP_nd": 0.0}
        content["rows"].append(row)
        (folder / "results.json").write_text(json.dumps(content))
    table = spread_table(read_runs(folders)).splitlines()
    lines = {cells(line)[0]: cells(line)[1:] for line in table}
    # 0.04 of 0.2 and 0.1 of 0.2; a bound below the baseline has no share
    assert lines["fix, of the gap"] == [f"35 ± {statistics.stdev([20, 50]):.0f} %"] * 3 + ["–"]
    assert "supervised, of the gap" not in lines and "supervised, gain" in lines
