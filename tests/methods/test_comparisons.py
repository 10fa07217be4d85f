"""PUL and the adversarial autoencoder in a run, beside EmbAE's own rows."""

from __future__ import annotations

import pytest
import torch

from embae_plugin.methods.pipeline import Run
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.settings.files import config_folder
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.tiny import same_weights
from tests.zoo_files import write_market1501, write_viper

# To market1501 (4 people, 16 images to adapt to) from viper (6 people).
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
  embedding: {precision: float32}
  adversarial: {max_epoch: 1}
  pul: {rounds: 1, max_epoch: 1, clusters: 3, batch_size: 4, baseline_epoch: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    write_market1501(folder / "root")
    write_viper(folder / "root")
    (folder / "run.yaml").write_text(SMALL, encoding="utf-8")
    return folder


def configured(folder, log, *options):
    cfg = load_config(folder / "run.yaml", options)
    cfg.data.root, cfg.data.save_dir = str(folder / "root"), str(log)
    check_config(cfg)
    return cfg


@pytest.fixture(scope="module")
def trained(folder):
    """A run of all that is compared, and its rows."""
    run = Run(configured(folder, folder / "log", "embae.variants", "['baseline', 'pul', 'aae']"))
    return run, run.train()


def test_rows_stand_beside_the_baselines_and_the_same_command_repeats_nothing(trained, folder):
    run, rows = trained
    assert [row["variant"] for row in rows] == ["baseline", "aae", "pul"]
    assert all({"rank1", "mAP", "rank1_nd", "mAP_nd"} <= set(row) for row in rows)
    checkpoints = sorted((folder / "log").glob("*/last.pth"))
    assert [p.parent.name for p in checkpoints] == ["adversarial", "embedding", "pul"]
    written = [p.stat().st_mtime_ns for p in checkpoints]
    assert Run(run.cfg).train() == rows
    assert written == [p.stat().st_mtime_ns for p in checkpoints]


def test_what_was_trained_is_scored_again(trained, folder):
    run, rows = trained
    assert run.evaluate() == rows
    cfg = configured(folder, folder / "log", "model.load_weights", str(folder / "log/pul/last.pth"))
    assert Run(cfg).evaluate() == [rows[-1]]


def test_both_start_from_stage_1_and_leave_its_model_as_it_is(trained, folder):
    run, _ = trained
    stage_1 = load_checkpoint(folder / "log" / "embedding" / "last.pth")["model"]
    assert all(torch.equal(stage_1[key], value) for key, value in run.model.state_dict().items())
    aae, pul = run.finished("adversarial"), run.finished("pul")
    assert same_weights(aae.trunk, run.model.trunk) and not same_weights(aae.f_emb, run.model.f_emb)
    assert not same_weights(pul.trunk, run.model.trunk)
    assert same_weights(pul.f_dec, run.model.f_dec)


def test_pul_on_its_own_baseline_needs_no_stage_of_embae(folder, tmp_path):
    options = ("embae.variants", "['pul']", "embae.pul.base", "softmax")
    run = Run(configured(folder, tmp_path, *options))
    rows = run.train()
    assert [row["variant"] for row in rows] == ["pul-baseline", "pul"]
    assert not (tmp_path / "embedding").exists()
    assert run.evaluate() == rows
    baseline, pul = (run.finished(stage) for stage in ("identification", "pul"))
    assert not same_weights(baseline, pul)


def test_they_are_run_only_where_they_are_named():
    cfg = load_config("embae")
    assert not {"pul", "aae"} & set(cfg.embae.variants)


def test_the_shipped_file_is_the_articles_pul():
    cfg = load_config(config_folder() / "pul_duke_to_market1501.yaml")
    check_config(cfg)
    node = cfg.embae.pul
    assert (node.base, cfg.embae.variants) == ("softmax", ["pul"])
    assert (node.rounds, node.max_epoch, node.clusters, node.threshold) == (25, 20, 750, 0.85)
    assert (node.lr, node.momentum, node.batch_size, node.dropout) == (1e-3, 0.9, 16, 0.5)
    assert not (node.near_any_seed or node.restart or node.heads_only)


def test_impossible_settings_are_refused_before_anything_is_loaded(folder, tmp_path):
    for options, message in (
        (("embae.variants", "['pull']"), "did you mean pul"),
        (("embae.pul.base", "resnet"), "embae.pul.base: 'resnet'"),
        (("embae.pul.clusters", "1"), "embae.pul.clusters is 1"),
        (("embae.pul.batch_size", "1"), "embae.pul.batch_size is 1"),
        (("embae.pul.dropout", "1.0"), "embae.pul.dropout is 1.0"),
        (("embae.pul.threshold", "1.0"), "embae.pul.threshold is 1.0"),
        (("embae.pul.lr", "0.0"), "embae.pul.lr is 0.0"),
        (("embae.pul.rounds", "-1"), "embae.pul.rounds is -1"),
        (("embae.pul.base", "softmax", "embae.pul.heads_only", "True"), "nothing to learn"),
        (("embae.adversarial.prior_std", "0.0"), "embae.adversarial.prior_std is 0.0"),
        (("embae.adversarial.triplet_weight", "-1"), "triplet_weight is -1.0; it must be"),
    ):
        with pytest.raises(ValueError, match=message):
            configured(folder, tmp_path, *options)
