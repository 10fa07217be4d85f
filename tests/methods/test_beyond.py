"""The rows past the paper in a run: their stages, their repetition, what each starts from."""

from __future__ import annotations

import pytest
import torch

from embae_plugin.lab.commands.ablate import ablate
from embae_plugin.methods import VARIANTS
from embae_plugin.methods import supervised as supervised_module
from embae_plugin.methods.pipeline import Run
from embae_plugin.methods.registry import rows as all_rows
from embae_plugin.methods.row_models import with_output
from embae_plugin.models.camera_norm import camera_layers
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.test_comparisons import SMALL, configured
from tests.methods.tiny import same_weights
from tests.zoo_files import write_image, write_market1501, write_viper

NEW = [
    row.name for row in all_rows().values()
    if row.scored and row.name not in ("baseline", "aae", "pul", "pul-baseline", *VARIANTS)
    and (row.method is None or row.method.__module__.startswith("embae_plugin."))
]
TINY = (
    SMALL
    + """\
  autoencoder: {max_epoch: 1, batch_size: 8}
  transfer: {max_epoch: 1, nuisance_epoch: 1, batch_size: 8}
  clusters: {rounds: 1, trunk_rounds: 1, k1: 4, k2: 2, min_samples: 2, eps: 0.9, batch_size: 4,
             num_instances: 2}
"""
)
STAGES = ["autoencoder-camera", "autoencoder-common", "clusters-baseline", "clusters-cam",
          "clusters-heads",
          "clusters-trunk", "clusters-trunk-plain", "embedding", "norm-heads", "norm-plain",
          "norm-transfer-all", "norm-transfer-cam",
          "norm-transfer-fix", "norm-transfer-new", "norm-trunk", "supervised",
          "supervised-heads"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beyond")
    write_market1501(folder / "root")
    write_viper(folder / "root")
    for number, path in enumerate(sorted((folder / "root" / "market1501").rglob("*.jpg"))):
        if "train" not in path.parent.name:  # noise that cannot be matched: scores differ
            write_image(path, seed=1000 + number)
    (folder / "run.yaml").write_text(TINY, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A run of every row past the paper, and its rows."""
    run = Run(configured(folder, folder / "log", "embae.variants", str(["baseline", *NEW])))
    return run, run.train()


def test_every_row_is_there_in_order_with_its_stage(trained, folder):
    _, rows = trained
    assert [row["variant"] for row in rows] == ["baseline", *NEW]
    assert all(0 < row["mAP"] < 1 and 0 <= row["rank1_nd"] <= 1 for row in rows)
    assert len({row["mAP"] for row in rows}) > len(rows) / 2
    checkpoints = sorted((folder / "log").glob("*/last.pth"))
    assert [path.parent.name for path in checkpoints] == STAGES
    for path in checkpoints:
        payload = load_checkpoint(path)
        assert payload["done"] and payload["stage"] == path.parent.name


def test_the_same_command_repeats_nothing(trained, folder):
    run, rows = trained
    paths = sorted((folder / "log").glob("*/last.pth"))
    written = [path.stat().st_mtime_ns for path in paths]
    assert Run(run.cfg).train() == rows
    assert written == [path.stat().st_mtime_ns for path in paths]


def test_what_was_trained_is_scored_again(trained, folder):
    run, rows = trained
    again = Run(run.cfg).evaluate()
    assert {row["variant"]: row for row in again} == {row["variant"]: row for row in rows}
    for stage in ("norm-trunk", "clusters-trunk", "norm-transfer-cam", "clusters-baseline"):
        path = folder / "log" / stage / "last.pth"
        cfg = configured(folder, folder / "log", "model.load_weights", str(path))
        (row,) = Run(cfg).evaluate()
        assert row in rows and all_rows()[row["variant"]].folder == stage


def test_rows_that_are_named_are_the_ones_that_are_scored_again(trained, folder):
    _, rows = trained
    wanted = ["clusters-baseline", "norm-h"]
    run = Run(configured(folder, folder / "log", "embae.variants", str(wanted)))
    assert [row for row in rows if row["variant"] in wanted] == sorted(
        run.evaluate(), key=lambda row: NEW.index(row["variant"])
    )


def test_an_ablation_scores_what_the_rows_score(trained):
    run, rows = trained
    of = {row["variant"]: row for row in rows}
    wanted = ["norm-heads", "clusters-heads", "clusters-trunk"]  # z_id, joint and h
    found = [row for row in ablate(run, wanted, ["flip"]) if row["normalized"]]
    assert [row["variant"] for row in found] == wanted
    for row in found:
        assert row["mAP"] == pytest.approx(of[row["variant"]]["mAP"]), row["variant"]


def test_rows_that_end_with_h_compare_trunk_features_of_the_same_model(trained):
    run, rows = trained
    of = {row["variant"]: row for row in rows}
    for name, model in (("baseline", run.model), ("norm", run.finished("norm-trunk"))):
        h = with_output(model, "h")
        assert model.output == "z_id" and h.output == "h" and same_weights(h, model)
        assert h.feature_dim == model.trunk.feature_dim
        expected = run.score(f"{name}-h", h)
        assert of[f"{name}-h"] == expected


def test_each_row_starts_from_what_it_says(trained, folder):
    run, _ = trained
    stage_1 = load_checkpoint(folder / "log" / "embedding" / "last.pth")["model"]
    assert all(torch.equal(stage_1[key], value) for key, value in run.model.state_dict().items())
    at = {stage: run.finished(stage) for stage in STAGES}
    normed = at["norm-trunk"]
    assert same_weights(normed.f_emb, run.model.f_emb)
    assert camera_layers(normed.trunk) and not camera_layers(normed.f_emb)
    heads = at["norm-heads"]
    assert same_weights(heads.trunk, run.model.trunk) and camera_layers(heads.f_emb)
    for variant in ("all", "fix", "new", "cam"):
        model = at[f"norm-transfer-{variant}"]
        assert same_weights(model.trunk, normed.trunk) and model.cameras == normed.cameras == 2
        assert not same_weights(model.f_emb, normed.f_emb)
    assert same_weights(at["clusters-baseline"].trunk, run.model.trunk)
    assert not same_weights(at["clusters-baseline"].f_emb, run.model.f_emb)
    assert same_weights(at["clusters-heads"].trunk, normed.trunk)
    assert at["clusters-heads"].output == "joint"
    for stage in ("clusters-trunk", "supervised"):
        assert at[stage].output == "h" and same_weights(at[stage].f_emb, normed.f_emb)
        assert not same_weights(at[stage].trunk, normed.trunk)
    assert not same_weights(at["clusters-trunk"], at["supervised"])


def test_true_identities_serve_the_supervised_rows_alone(trained, folder):
    run, _ = trained
    assert run.data.target_train.pids is None
    for stage in STAGES:
        identity = load_checkpoint(folder / "log" / stage / "last.pth")["identity"]
        true = identity.get("labels") == "true identities"
        assert true == stage.startswith("supervised"), stage


def test_supervised_refuses_identities_of_other_images(trained, folder, monkeypatch):
    run, _ = trained
    bridge = supervised_module.bridge
    split = bridge.dataset_split
    monkeypatch.setattr(bridge, "dataset_split", lambda *a, **k: split(*a, **k)[1:])
    with pytest.raises(ValueError, match="identities of market1501 cannot be had"):
        supervised_module.ImageSupervisedEngine.inputs(run.cfg, run.data, run.model, run.model)


def test_impossible_settings_are_refused_before_anything_is_loaded(folder):
    for options, message in (
        (("embae.variants", "['normal']"), "did you mean norm"),
        (("embae.clusters.eps", "1.0"), "embae.clusters.eps is 1.0"),
        (("embae.clusters.keep", "2.0"), "embae.clusters.keep is 2.0"),
        (("embae.clusters.temperature", "0.0"), "embae.clusters.temperature is 0.0"),
        (("embae.clusters.k1", "0"), "embae.clusters.k1 is 0"),
        (("embae.clusters.rounds", "-1"), "embae.clusters.rounds is -1"),
        (("embae.clusters.lr", "0.0"), "embae.clusters.lr is 0.0"),
        (("embae.clusters.batch_size", "5"), "embae.clusters.batch_size is 5"),
    ):
        with pytest.raises(ValueError, match=message):
            configured(folder, folder / "none", *options)
