"""`embae reproduce`: the command itself, with fixed scores and once truly on tiny cameras."""

from __future__ import annotations

import csv
import json

import pytest

from embae_plugin.commands.main import main
from embae_plugin.data.datasets.generation import generate
from embae_plugin.lab.commands import reproduce as verb
from embae_plugin.lab.commands.reproduce import parse_seeds
from embae_plugin.lab.reproduction import runner
from embae_plugin.training.loop import Interrupted
from tests.lab.reproduction.fakes import IMAGES, FakeTraining

SETTINGS = {
    "data.height": 32, "data.width": 16, "train.batch_size": 8, "sampler.num_instances": 2,
    "train.max_epoch": 1, "embae.trunk": "mobilenetv1_x0_25", "embae.z_id_dim": 8,
    "embae.hidden_dim": 16, "embae.autoencoder.max_epoch": 1, "embae.transfer.max_epoch": 1,
    "embae.transfer.nuisance_epoch": 1, "embae.pul.rounds": 1, "embae.pul.max_epoch": 1,
    "embae.pul.clusters": 4, "use_gpu": False, "embae.embedding.precision": "float32",
}
SMALL = [str(part) for pair in SETTINGS.items() for part in pair]


@pytest.fixture
def training(monkeypatch):
    """Fixed scores instead of training, on the paper's data."""
    fake = FakeTraining()
    monkeypatch.setattr(verb, "run_config", fake)
    monkeypatch.setattr(verb.render, "plot_tables", lambda path, tables: path.write_bytes(b"plot"))
    monkeypatch.setattr(runner, "look_at_data", lambda cfg: runner.Outcome(IMAGES, "these"))
    return fake


def test_seeds():
    assert parse_seeds("2") == (1, 2)
    assert parse_seeds("4,7") == (4, 7) and parse_seeds("5,") == (5,)
    for wrong in ("0", "x", "1,1", "", ",", "1.5", "-1"):
        with pytest.raises(Exception, match="neither how many seeds"):
            parse_seeds(wrong)


def test_prints_and_writes_the_tables(tmp_path, training, capsys):
    command = ["reproduce", "--seeds", "2", "--out", str(tmp_path), "train.max_epoch", "400"]
    assert main(command) == 0
    printed = capsys.readouterr().err
    assert printed.count("Table ") >= 4 and "0.585 (+0.164)" in printed
    assert len(training.calls) == 8
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "tables.md", "tables.csv", "tables.json", "tables.png", "reproduce.log"
    }
    content = json.loads((tmp_path / "tables.json").read_text())
    assert content["preset"] == "paper" and content["options"] == ["train.max_epoch", "400"]
    assert [table["table"] for table in content["tables"]] == [1, 2, 3, 4]
    assert "embae reproduce --preset paper train.max_epoch 400" in (
        tmp_path / "tables.md").read_text()
    with (tmp_path / "tables.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 16 + 2 * 8


def test_chosen_tables_and_more_variants(tmp_path, training, capsys):
    command = ["reproduce", "--table", "3", "--table", "1", "--seeds", "4,", "--all-variants",
               "--out", str(tmp_path)]
    assert main(command) == 0
    assert [(seed, variants) for _, seed, variants in training.calls] == [
        (4, ["baseline", "all", "fix", "new", "dataset", "cam"]), (4, ["pul"])
    ]
    printed = capsys.readouterr().err
    line = next(line for line in printed.splitlines() if line.startswith("EmbAE-all"))
    assert line.split() == ["EmbAE-all", "Rank-1", "–", "0.414", "(+0.010)", "–"]
    assert "Table 2" not in printed.replace("Table 2's number", "")


def test_missing_data_are_named_and_nothing_run_is_an_error(tmp_path, monkeypatch, capsys):
    fake = FakeTraining()
    monkeypatch.setattr(verb, "run_config", fake)
    command = ["reproduce", "--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert fake.calls == []
    assert str(tmp_path / "no" / "dukemtmc-reid") in capsys.readouterr().err
    page = (tmp_path / "out" / "tables.md").read_text()
    assert "Not run: dataset 'dukemtmcreid'" in page and "0.585 (+0.164)" in page
    assert not (tmp_path / "out" / "tables.png").exists()


def test_a_failed_run_shows_in_the_exit_code(tmp_path, training, monkeypatch):
    training.error, training.at = OSError("no network"), 4
    assert main(["reproduce", "--seeds", "1", "--out", str(tmp_path)]) == 2
    assert "failed: no network" in (tmp_path / "tables.md").read_text()


def test_interrupted_goes_on_where_it_stopped(tmp_path, training, monkeypatch, capsys):
    command = ["reproduce", "--table", "1", "--seeds", "3", "--out", str(tmp_path)]
    training.error, training.at = Interrupted("embedding stopped"), 2
    assert main(command) == 130
    assert "embedding stopped" in capsys.readouterr().err
    assert "Not run yet: 2, 3" in (tmp_path / "tables.md").read_text()
    training.error = None
    assert main(command) == 0
    assert [seed for _, seed, _ in training.calls] == [1, 2, 2, 3]


@pytest.mark.parametrize(("flags", "words"), [
    (["--preset", "nowhere"], "built-in presets paper"),
    (["train.epochs", "3"], "no configuration key 'train.epochs'"),
    (["train.max_epoch"], "has no value"),
])
def test_refused(tmp_path, capsys, flags, words):
    assert main(["reproduce", "--out", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- --dry-run ------------------------------------------------------------------------------


def dry(tmp_path, capsys, *flags) -> str:
    assert main(["reproduce", "--dry-run", "--out", str(tmp_path / "out"), *flags]) == 0
    return capsys.readouterr().err


def test_dry_run_says_what_is_done_begun_and_to_run_and_trains_nothing(tmp_path, training, capsys):
    flags = ["--table", "1", "--out", str(tmp_path / "out")]
    assert main(["reproduce", "--seeds", "1", *flags]) == 0
    stage = tmp_path / "out" / "dukemtmcreid-to-market1501-seed2" / "embedding"
    stage.mkdir(parents=True)
    (stage / "last.pth").touch()
    capsys.readouterr()
    printed = dry(tmp_path, capsys, "--table", "1", "--seeds", "3")
    states = [line.split()[-1] for line in printed.splitlines() if "-seed" in line]
    assert states == ["done", "begun", "run"] and "2 of 3 runs are left" in printed
    assert len(training.calls) == 1


def test_dry_run_names_missing_data(tmp_path, capsys):
    printed = dry(tmp_path, capsys, "--root", str(tmp_path), "--seeds", "1")
    assert printed.count("data missing") == 4
    assert printed.count(str(tmp_path / "dukemtmc-reid")) >= 2


def test_dry_run_draws_no_built_in_data(tmp_path, capsys):
    assert "to run" in dry(tmp_path, capsys, "--preset", "synthetic", "--table", "1", *SMALL)
    assert not (tmp_path / "out").exists()


# --- the whole of it ------------------------------------------------------------------------


def test_synthetic_preset_end_to_end(tmp_path, capsys):
    root, out = tmp_path / "root", tmp_path / "out"
    for name in ("synthetic_source_a", "synthetic_target"):
        generate(name, root, scale=0.03, workers=1)
    command = ["reproduce", "--preset", "synthetic", "--table", "1", "--table", "3",
               "--root", str(root), "--out", str(out), *SMALL]
    assert main(command) == 0
    content = json.loads((out / "tables.json").read_text())
    rows = {(table["table"], row["variant"], row["score"]): row
            for table in content["tables"] for row in table["rows"]}
    assert all(0 <= row["ours"] <= 1 and row["difference"] is None for row in rows.values())
    assert rows[1, "cam", "mAP"]["ours"] == rows[3, "cam", "mAP"]["ours"]  # one run for both
    assert rows[3, "pul", "mAP"]["model"] == "PUL on the EmbAE embedding, heads only"
    results = json.loads(
        (out / "synthetic_source_a-to-synthetic_target-seed1" / "results.json").read_text()
    )
    ours = {row["variant"]: row["mAP"] for row in results["rows"]}
    assert rows[1, "cam", "mAP"]["ours"] == ours["cam"]
    assert rows[1, "cam", "mAP"]["gain"] == pytest.approx(ours["cam"] - ours["baseline"])
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.count("done before, scores read") == 1
