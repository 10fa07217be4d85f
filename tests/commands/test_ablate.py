"""`embae ablate` against the scores that the run itself gives, and by hand on its choices."""

from __future__ import annotations

import json

import pytest

from embae_plugin.commands.main import main
from embae_plugin.methods.pipeline import Run
from embae_plugin.settings.config import load_config
from embae_plugin.training.scoring import score_model
from tests.zoo_files import write_image, write_market1501, write_viper

SMALL = """
_BASE_: embae.yaml
use_gpu: False
data: {sources: ["viper"], targets: ["market1501"], height: 32, width: 16, combineall: True}
sampler: {num_instances: 2}
train: {batch_size: 6, max_epoch: 1}
embae:
  trunk: mobilenetv1_x0_25
  trunk_weights: ""
  z_id_dim: 8
  hidden_dim: 16
  variants: ["baseline", "all", "new", "aae"]
  embedding: {precision: float32}
  autoencoder: {max_epoch: 1}
  transfer: {max_epoch: 1, nuisance_epoch: 1}
  adversarial: {max_epoch: 1}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of `embae train` and the root of its data."""
    folder = tmp_path_factory.mktemp("trained")
    market = write_market1501(folder / "root", test_ids=5)
    for number, path in enumerate(sorted(market.rglob("*.jpg"))):
        write_image(path, seed=number)  # nobody looks alike twice, so that no score is perfect
    write_viper(folder / "root")
    (folder / "run.yaml").write_text(SMALL, encoding="utf-8")
    command = ["train", "--config-file", str(folder / "run.yaml"), "--root", str(folder / "root")]
    assert main([*command, "data.save_dir", str(folder / "log")]) == 0
    return folder / "log"


def rows_of(folder) -> dict:
    content = json.loads((folder / "ablation.json").read_text())
    return {(row["variant"], row["tta"], row["normalized"]): row for row in content["rows"]}


def test_every_choice_for_every_finished_model(trained, capsys):
    assert main(["ablate", "--run", str(trained)]) == 0
    printed = capsys.readouterr().err
    rows = rows_of(trained)
    assert len(rows) == 4 * 3 * 2
    assert list(dict.fromkeys(key[0] for key in rows)) == ["baseline", "all", "new", "aae"]
    assert "mAP (trapezoid)" in printed and "Rank-1-nd" in printed
    page = (trained / "ablation.md").read_text()
    assert page.startswith("# Scoring choices: viper → market1501") and page.count("\n|") == 26
    # The run's own scores are those with flip, normalised.
    for row in json.loads((trained / "results.json").read_text())["rows"]:
        mine = rows[row["variant"], "flip", True]
        assert {key: mine[key] for key in row} == pytest.approx(row)
    assert any(row["mAP"] != row["mAP_trapezoid"] for row in rows.values())


@pytest.mark.parametrize("tta", ["none", "ten_crop"])
@pytest.mark.parametrize("normalized", [False, True])
def test_scores_equal_those_of_the_scoring_function(trained, tta, normalized):
    assert main(["ablate", "--run", str(trained), "--variants", "new", "--tta", tta]) == 0
    rows = rows_of(trained)
    assert len(rows) == 2  # the other models are not scored
    cfg = load_config(trained / "config.yaml")
    cfg.test.evaluate = True
    run = Run(cfg)
    scores = score_model(run.finished("transfer-new"), run.store, run.data.query, run.data.gallery,
                         tta, normalized)
    row = rows["new", tta, normalized]
    assert row["rank1"] == pytest.approx(scores["market"].rank1)
    assert row["mAP"] == pytest.approx(scores["market"].mAP)
    assert row["mAP_nd_trapezoid"] == pytest.approx(scores["nd"].mAP_trapezoid)


def test_moved_folder_and_root(trained, tmp_path):
    moved = tmp_path / "elsewhere"
    trained.rename(moved)
    try:
        (trained.parent / "root").rename(tmp_path / "data")
        command = ["ablate", "--run", str(moved), "--tta", "none", "--variants", "baseline"]
        assert main(command) == 2  # the data went with nobody saying so
        (moved / "ablation.json").unlink(missing_ok=True)
        (tmp_path / "data" / "viper" / "splits.json").unlink(missing_ok=True)
        assert main([*command, "--root", str(tmp_path / "data")]) == 0
        assert set(rows_of(moved)) == {("baseline", "none", False), ("baseline", "none", True)}
    finally:
        moved.rename(trained)
        (tmp_path / "data" / "viper" / "splits.json").unlink(missing_ok=True)
        (tmp_path / "data").rename(trained.parent / "root")


def test_refused(trained, tmp_path, capsys):
    assert main(["ablate", "--run", str(tmp_path)]) == 2
    assert "config.yaml does not exist: --run takes" in capsys.readouterr().err
    assert main(["ablate", "--run", str(trained), "--variants", "cam", "fix", "new"]) == 2
    error = capsys.readouterr().err
    assert "no finished cam, fix (finished: new)" in error
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert main(["ablate", "--run", str(tmp_path)]) == 2
    assert "holds no finished model (finished: none)" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("loss: {name: softmax}")
    assert main(["ablate", "--run", str(tmp_path)]) == 2
    assert "only runs of embae are scored" in capsys.readouterr().err
