"""``embae train`` from the command line to the files that it leaves, on a tiny world."""

from __future__ import annotations

import argparse
import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embae_plugin.commands.main import main
from embae_plugin.commands.train import add_arguments, config_of
from embae_plugin.data import feature_bank, image_bank
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.training.run_identity import load_checkpoint
from tests.commands.tiny_run import VARIANTS, rows_of, train
from tests.zoo_files import write_market1501

# --- a run and what it leaves ---------------------------------------------------------------


def test_a_run_leaves_all_it_promises(finished):
    stages = ["embedding", "autoencoder-common", "autoencoder-dataset", "autoencoder-camera",
              *(f"transfer-{variant}" for variant in VARIANTS)]
    for stage in stages:
        assert load_checkpoint(finished / stage / "last.pth")["done"], stage
    log = (finished / "train.log").read_text(encoding="utf-8")
    assert "scores on market1501" in log and "baseline" in log and "Rank-1-nd" in log
    with Image.open(finished / "scores.png") as picture:
        assert picture.format == "PNG"
    hidden = [path for path in finished.rglob(".*")]
    assert hidden == []  # no file is left half written


def test_the_rows_are_those_of_the_paper(finished):
    content = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert content["target"] == "market1501" and content["sources"] == ["viper"]
    assert [row["variant"] for row in content["rows"]] == ["baseline", *VARIANTS]
    for row in content["rows"]:
        assert row["queries"] == 12 and row["dropped_queries"] == row["dropped_queries_nd"] == 0
        for key in ("rank1", "rank1_nd", "mAP", "mAP_nd", "mAP_trapezoid", "mAP_nd_trapezoid"):
            # Rank-1 of a barely trained network may be 0; an average precision never is.
            assert 0 <= row[key] <= 1 and (row[key] > 0 or key.startswith("rank"))
    assert set(content["seconds"]) >= {"embedding", "transfer-cam"}
    # these are six models: no two rank the gallery alike
    assert len({row["mAP"] for row in content["rows"]}) > 3


def test_the_configuration_that_is_kept_is_the_one_that_ran(finished):
    cfg = load_config(finished / "config.yaml")
    check_config(cfg)
    assert cfg.embae.trunk == "mobilenetv1_x0_25" and cfg.data.sources == ["viper"]
    assert cfg.embae.trunk_weights == "" and cfg.data.targets == ["market1501"]


def test_tensorboard_shows_every_epoch(finished):
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("embedding/embedding/loss")]
    assert len(losses) == 2 and all(value > 0 for value in losses)
    assert len(events.Scalars("autoencoder-camera/camera/reconstruction")) == 2
    assert len(events.Scalars("transfer-cam/nuisance/reconstruction")) == 1


def test_the_same_command_again_computes_nothing_and_says_the_same(root, copied, monkeypatch):
    before = rows_of(copied)
    (copied / "results.json").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work was done twice")

    monkeypatch.setattr(image_bank, "decode", refuse)
    monkeypatch.setattr(feature_bank, "extract_features", refuse)
    assert train(root, copied) == 0
    assert rows_of(copied) == before


def test_another_folder_with_the_same_seed_has_the_same_rows(root, finished, tmp_path):
    assert train(root, tmp_path / "two", embae__variants="['baseline', 'cam']") == 0
    wanted = [row for row in rows_of(finished) if row["variant"] in ("baseline", "cam")]
    assert rows_of(tmp_path / "two") == wanted


def test_evaluate_gives_the_rows_again(root, copied):
    before = rows_of(copied)
    assert train(root, copied, test__evaluate="True") == 0
    assert rows_of(copied) == before
    assert (copied / "test.log").is_file()


def test_evaluate_scores_a_single_checkpoint(root, finished, tmp_path):
    weights = str(finished / "transfer-cam" / "last.pth")
    assert train(root, tmp_path, test__evaluate="True", model__load_weights=weights) == 0
    assert rows_of(tmp_path) == [row for row in rows_of(finished) if row["variant"] == "cam"]


def test_stage_1_can_be_taken_from_another_run(root, finished, tmp_path):
    weights = str(finished / "embedding" / "last.pth")
    code = train(root, tmp_path, model__load_weights=weights, embae__variants="['fix']",
                 embae__stages="['autoencoder', 'transfer']")
    assert code == 0
    wanted = [row for row in rows_of(finished) if row["variant"] in ("baseline", "fix")]
    assert rows_of(tmp_path) == wanted


def test_stages_can_be_run_one_after_the_other(root, finished, tmp_path):
    assert train(root, tmp_path, embae__stages="['embedding']") == 0
    assert [row["variant"] for row in rows_of(tmp_path)] == ["baseline"]
    later = {"embae__stages": "['autoencoder', 'transfer']", "embae__variants": "['fix']"}
    assert train(root, tmp_path, **later) == 0
    wanted = [row for row in rows_of(finished) if row["variant"] in ("baseline", "fix")]
    assert rows_of(tmp_path) == wanted


# --- torchreid's own roads ------------------------------------------------------------------


def test_torchreids_triplet_engine_trains_an_embae_model(tmp_path, capsys):
    # torchreid's evaluator wants 50 gallery images for each query
    write_market1501(tmp_path, train_ids=4, test_ids=9, shots=3, size=(16, 32))
    code = main([
        "train", "-s", "market1501", "-t", "market1501", "--root", str(tmp_path),
        "model.name", "embae_mobilenetv1", "model.pretrained", "False", "use_gpu", "False",
        "loss.name", "triplet", "data.height", "64", "data.width", "32", "data.workers", "0",
        "train.batch_size", "8", "sampler.num_instances", "2", "train.max_epoch", "1",
        "sampler.train_sampler", "RandomIdentitySampler", "train.print_freq", "1",
        "data.save_dir", str(tmp_path / "run"),
    ])
    assert code == 0
    assert list((tmp_path / "run" / "model").glob("model.pth.tar-1"))
    assert "Rank-1" in capsys.readouterr().err


def test_transforms_that_need_torchreids_loader_use_it_and_say_so(root, tmp_path):
    changes = {"data__transforms": "['random_flip', 'color_jitter']",
               "embae__stages": "['embedding']", "train__max_epoch": "1"}
    assert train(root, tmp_path, **changes) == 0
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert "transforms color_jitter are done by torchreid's loader" in log
    first = rows_of(tmp_path)
    assert [row["variant"] for row in first] == ["baseline"]
    assert train(root, tmp_path / "again", **changes) == 0  # the same seed, the same rows
    assert rows_of(tmp_path / "again") == first


def test_help_names_the_verbs(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "train" in capsys.readouterr().out


# --- flags that take several words -----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "-s viper cuhk01 -t market1501 data.combineall True train.seed 7",
        "-s viper cuhk01 data.combineall True -t market1501 train.seed 7",
        "-t market1501 --transforms random_flip -s viper cuhk01 --root x data.combineall True "
        "train.seed 7",
        "-t market1501 -s viper cuhk01 train.seed 3 --root x data.combineall True train.seed 7",
    ],
    ids=["behind the targets", "behind both", "behind the root", "in two places"],
)
def test_pairs_may_follow_any_flag(words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    preset = ["--config-file", "viper_cuhk01_to_market1501"]
    cfg = config_of(parser.parse_args([*preset, *words.split()]))
    assert cfg.data.sources == ["viper", "cuhk01"] and cfg.data.targets == ["market1501"]
    assert cfg.data.combineall is True and cfg.train.seed == 7
    assert cfg.data.transforms == ["random_flip"]


# --- what is not the paper's ------------------------------------------------------------------


def test_stage_1_by_camera_and_a_code_held_back(root, tmp_path):
    changes = {
        "embae__embedding__camera_norm": "True",
        "embae__nuisance__noise": "1.0",
        "embae__nuisance__decorrelation": "1.0",
        "embae__variants": "['baseline', 'cam', 'norm+cam']",
    }
    assert train(root, tmp_path, **changes) == 0
    assert [row["variant"] for row in rows_of(tmp_path)] == ["baseline", "cam", "norm+cam"]
    first = load_checkpoint(tmp_path / "embedding" / "last.pth")
    assert first["identity"]["camera_norm"] and "cameras" not in first["spec"]
    for stage in ("autoencoder-camera", "transfer-cam", "norm-transfer-cam"):
        identity = load_checkpoint(tmp_path / stage / "last.pth")["identity"]
        held = identity["bottleneck.noise"], identity["bottleneck.decorrelation"]
        assert held == (1.0, 1.0), stage
