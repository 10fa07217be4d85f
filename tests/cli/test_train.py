"""``embae train`` from the command line to the files that it leaves, on a tiny world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embae_plugin.cli.main import main
from embae_plugin.config import check_config, load_config
from embae_plugin.data import feature_bank, image_bank
from embae_plugin.engine.checkpoint import load_checkpoint
from embae_plugin.models.trunks import build_trunk
from tests.zoo_files import write_market1501, write_viper

TINY = {
    "model.name": "embae_mobilenetv1", "loss.name": "embae", "use_gpu": "False",
    "data.height": "64", "data.width": "32", "data.combineall": "True", "data.workers": "0",
    "data.norm_mean": "[0.5, 0.5, 0.5]", "data.norm_std": "[0.5, 0.5, 0.5]",
    "train.batch_size": "6", "sampler.num_instances": "2", "train.max_epoch": "2",
    "train.lr_scheduler": "exponential", "test.normalize_feature": "True",
    "sampler.train_sampler": "RandomDatasetIdentitySampler",
    "embae.trunk": "mobilenetv1_x0_25", "embae.trunk_weights": "", "embae.z_id_dim": "8",
    "embae.z_nui_dim": "4", "embae.hidden_dim": "16", "embae.autoencoder.max_epoch": "2",
    "embae.transfer.max_epoch": "1", "embae.transfer.nuisance_epoch": "1",
    "embae.autoencoder.batch_size": "8", "embae.transfer.batch_size": "8",
    "embae.transfer.lr": "0.02", "embae.transfer.final_lr": "0.01",
    "embae.embedding.precision": "float32",
}  # fmt: skip
VARIANTS = ["all", "fix", "new", "dataset", "cam"]


def train(root: Path, save_dir: Path, **changes: str) -> int:
    """``embae train`` with :data:`TINY` and changes, ``__`` in place of the points."""
    sources = changes.pop("sources", "viper").split()
    options = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    pairs = [text for pair in options.items() for text in pair]
    return main(["train", "-s", *sources, "-t", "market1501", "--root", str(root),
                 "data.save_dir", str(save_dir), *pairs])  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Crops that show their person's colour under much noise, so that scores lie in the middle."""
    root = tmp_path_factory.mktemp("reid-data")
    write_market1501(root, train_ids=4, test_ids=6)
    write_viper(root, identities=6)
    for number, path in enumerate(sorted([*root.rglob("*.jpg"), *root.rglob("*.bmp")])):
        colour = np.random.default_rng(int(path.name.split("_")[0])).uniform(90, 160, 3)
        pixels = colour + np.random.default_rng(number).normal(0, 50, (24, 12, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    """The folder of a complete run with every variant of the paper."""
    save_dir = tmp_path_factory.mktemp("runs") / "one"
    assert train(root, save_dir) == 0
    return save_dir


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rows_of(save_dir: Path) -> list[dict]:
    return json.loads((save_dir / "results.json").read_text(encoding="utf-8"))["rows"]


# --- a run and what it leaves ---------------------------------------------------------------


def test_a_run_leaves_all_it_promises(finished):
    stages = ["embedding", "autoencoder-common", "autoencoder-dataset", "autoencoder-camera",
              *(f"transfer-{variant}" for variant in VARIANTS)]  # fmt: skip
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
            assert 0 < row[key] <= 1
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
                 embae__stages="['autoencoder', 'transfer']")  # fmt: skip
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


# --- mistakes -------------------------------------------------------------------------------


def message(capsys) -> str:
    """The line that a user is left with."""
    lines = capsys.readouterr().err.strip().splitlines()
    said = [number for number, line in enumerate(lines) if line.startswith("embae: ")]
    assert len(said) == 1, lines
    assert said[0] == len(lines) - 1 or "image file(s)" in lines[said[0]]
    assert not any("Traceback" in line for line in lines)
    return "\n".join(lines[said[0] :])


MISTAKES = [
    ({"embae__varaints": "['cam']"}, r"no configuration key 'embae.varaints'. Did you mean"),
    ({"embae__variants": "['cams']"}, r"embae.variants: 'cams' is not one of"),
    ({"embae__trunk": "mobilenet_v9"}, r"mobilenet_v9"),
    ({"embae__trunk_weights": "nowhere.pth"}, r"nowhere.pth"),
    ({"model__load_weights": "nowhere.pth"}, r"checkpoint nowhere.pth does not exist"),
    ({"train__batch_size": "5"}, r"K = 2) does not divide; 4 or 6 would do"),
    ({"train__batch_size": "40"}, r"identities"),
    ({"sources": "viper market1501"}, r"market1501 is both a source and the target"),
    ({"sources": "cuhk01"}, r"dataset 'cuhk01': looked for"),
    ({"sources": "cuhk9"}, r"unknown dataset 'cuhk9'; available"),
    ({"loss__name": "contrastive"}, r"loss.name must be embae, softmax or triplet"),
    ({"test__evaluate": "True"}, r"holds no finished stage"),
    ({"embae__stages": "['autoencoder', 'transfer']"}, r"holds no finished stage 1"),
    ({"embae__embedding__step": "graph"}, r"graph cannot be used: the images are not on a GPU"),
]


@pytest.mark.parametrize(("changes", "text"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_told_in_one_line(root, tmp_path, capsys, monkeypatch, changes, text):
    monkeypatch.chdir(tmp_path)
    assert train(root, tmp_path / "run", **changes) == 2
    assert text in message(capsys)


def test_a_missing_config_file_is_told(capsys):
    assert main(["train", "--config-file", "gone.yaml"]) == 2
    assert "configuration file gone.yaml does not exist; built in are" in message(capsys)


def test_weights_of_another_network_are_told(root, tmp_path, capsys):
    torch.save(build_trunk("mobilenetv1_x0_5").net.state_dict(), tmp_path / "wide.pth")
    weights = str(tmp_path / "wide.pth")
    assert train(root, tmp_path / "run", embae__trunk_weights=weights) == 2
    text = message(capsys)
    assert "wide.pth" in text and "mobilenetv1_x0_25" in text


def test_another_setting_in_the_same_folder_is_told(root, copied, capsys):
    assert train(root, copied, train__lr="0.01") == 2
    assert "train.lr: 0.0003 then, 0.01 now" in capsys.readouterr().err


@pytest.fixture
def own_root(root, tmp_path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "own", ignore=shutil.ignore_patterns("*.json")))


def test_corrupt_images_are_all_told(own_root, tmp_path, capsys):
    pictures = sorted((own_root / "viper").rglob("*.bmp"))[:2]
    pictures[0].write_bytes(pictures[0].read_bytes()[:80])
    pictures[1].write_bytes(b"")
    assert train(own_root, tmp_path / "run") == 2
    text = message(capsys)
    assert "2 image file(s) cannot be read" in text
    assert all(str(picture) in text for picture in pictures)
    # the run's log has the traceback that the terminal is spared
    assert "CorruptImageError" in (tmp_path / "run" / "train.log").read_text(encoding="utf-8")


def test_a_full_disk_is_told(root, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    assert train(root, tmp_path / "run", embae__stages="['embedding']") == 2
    assert "cannot write the checkpoint" in message(capsys)


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
    ])  # fmt: skip
    assert code == 0
    assert list((tmp_path / "run" / "model").glob("model.pth.tar-1"))
    assert "Rank-1" in capsys.readouterr().out


def test_transforms_that_need_torchreids_loader_use_it_and_say_so(root, tmp_path):
    changes = {"data__transforms": "['random_flip', 'color_jitter']",
               "embae__stages": "['embedding']", "train__max_epoch": "1"}  # fmt: skip
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
