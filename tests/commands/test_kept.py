"""What a run leaves alone: other runs' results, and what a configuration may not do."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from embae_plugin.commands import train
from embae_plugin.commands.main import main
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.evaluation.score_table import kept_rows, write_results
from embae_plugin.methods.clusters import ImageClusterEngine
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.settings.config import load_config
from embae_plugin.training.loop import FILES
from tests.crops_world import write_checkpoint, write_crops
from tests.methods.tiny import tiny_model, tiny_store
from tests.methods.tiny import write_crops as write_records


@pytest.mark.parametrize("how", ["named", "as a base"])
def test_a_configuration_runs_no_code(tmp_path, how):
    code = tmp_path / "x.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ncfg = {{}}\n")
    named = code
    if how == "as a base":
        named = tmp_path / "config.yaml"
        named.write_text("_BASE_: x.py\n")
    with pytest.raises(ValueError, match="not a readable yaml"):
        load_config(named)
    assert not (tmp_path / "ran").exists()


def test_decoded_crops_that_do_not_fit_go_to_a_private_folder_and_are_removed(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    paths = [str(path) for path in write_crops(tmp_path / "crops", 2, 1, 1)]
    bank = ImageBank(paths, 16, 8, memory_share=0.0)
    [folder] = tmp_path.glob("embae-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert np.asarray(bank.images).shape == (2, 16, 8, 3)
    del bank
    assert not folder.exists()


def test_what_a_stage_learned_from_is_in_its_identity(tmp_path):
    """Another target of equal size in the same folder is not taken for the first."""
    one, other = (write_records(tmp_path / name, 4, 2, 2) for name in ("a", "b"))
    crops = [part.unlabelled() for part in (one, other)]
    other_camids = ImageRecords(crops[1].paths, 1 - crops[1].camids, crops[1].dsetids)
    for engine in (ImageNormEngine, ImageClusterEngine):
        found = []
        for target in (crops[0], crops[0], other_camids):
            data = ReIDData(["s"], one, "t", target)
            made = engine(data, tiny_model(), "trunk", use_gpu=False, store=tiny_store())
            found.append(made.identity())
        assert found[0] == found[1] and found[0][FILES] != found[2][FILES]
    assert found[0]["precision"] in ("float32", "bf16")


def test_rows_of_a_run_with_fewer_variants_do_not_replace_more(tmp_path):
    path, about = tmp_path / "results.json", {"seed": 1}
    rows = [{"variant": name, "mAP": 0.1} for name in ("baseline", "cam")]
    write_results(path, "t", rows, **about)
    assert kept_rows(path, "t", about, {"cam"}) == rows[:1]
    assert kept_rows(path, "t", {"seed": 2}, {"cam"}) == []
    assert kept_rows(path, "other", about, {"cam"}) == []
    path.write_text("{")
    assert kept_rows(path, "t", about, set()) == []


def test_adapt_follows_its_settings_or_refuses_them_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_crops(tmp_path / "crops", 2, 2, 1)
    write_checkpoint(tmp_path / "m.pth")
    command = ["adapt", "--images", "crops", "--checkpoint", "m.pth", "--out", "out"]
    for pair, message in (
        (["train.lr", "0.1"], "train.lr: embae adapt follows settings that begin with embae."),
        (["embae.adapt.method", "trunkk"], "embae.adapt.method: 'trunkk' is not one of"),
        (["embae.clusters.eps", "1.5"], "embae.clusters.eps is 1.5"),
        (["embae.clusters.lr", "0"], "embae.clusters.lr is 0"),
    ):
        assert main([*command, *pair]) == 2
        assert message in capsys.readouterr().err and not Path("out").exists()


def test_pairs_beat_flags_as_in_torchreid():
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    pairs = ["data.root", "b", "data.targets", "['viper']", "data.sources", "['cuhk01']"]
    cfg = train.config_of(
        parser.parse_args(["-s", "viper", "-t", "ward", "--root", "a", *pairs])
    )
    assert (cfg.data.root, cfg.data.targets, cfg.data.sources) == ("b", ["viper"], ["cuhk01"])


def test_a_refused_run_leaves_the_finished_ones_configuration(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("kept: true\n")

    def refuses(cfg, writer=None):
        raise ValueError("comes from a run with other settings")

    monkeypatch.setattr(train, "Run", refuses)
    cfg = load_config("synthetic", ["data.save_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="other settings"):
        train.run_config(cfg)
    assert (tmp_path / "config.yaml").read_text() == "kept: true\n"
