"""The tree equals torchreid's, and whatever cannot work is refused with the key's name."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from embae_plugin.settings.config import (
    check_config,
    engine_run_kwargs,
    flatten,
    get_default_config,
    imagedata_kwargs,
    load_config,
    lr_scheduler_kwargs,
    optimizer_kwargs,
)
from embae_plugin.settings.files import config_folder, find_config

# configs/reproduce_*.yaml are presets of `embae reproduce`, no training configurations.
CONFIGS = sorted(p for p in config_folder().glob("*.yaml") if not p.stem.startswith("reproduce_"))


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- the tree -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchreids_script() -> dict:
    checkout = os.environ.get("EMBAE_TORCHREID_GITHUB", "")
    if not checkout:
        pytest.skip("EMBAE_TORCHREID_GITHUB names no checkout of deep-person-reid")
    return runpy.run_path(str(Path(checkout) / "scripts" / "default_config.py"))


def test_defaults_are_torchreids_value_for_value(torchreids_script):
    ours = {k: v for k, v in flatten(get_default_config()).items() if not k.startswith("embae.")}
    assert ours.pop("use_gpu") is True  # torchreid's main.py adds this one when it runs
    assert ours == flatten(torchreids_script["get_default_config"]())


def test_arguments_are_those_torchreids_script_makes(torchreids_script):
    cfg = get_default_config()
    theirs = torchreids_script["imagedata_kwargs"](cfg)
    assert imagedata_kwargs(cfg) == theirs
    assert optimizer_kwargs(cfg) == torchreids_script["optimizer_kwargs"](cfg)
    assert lr_scheduler_kwargs(cfg) == torchreids_script["lr_scheduler_kwargs"](cfg)
    assert engine_run_kwargs(cfg) == torchreids_script["engine_run_kwargs"](cfg)


def test_each_call_gives_a_fresh_tree():
    get_default_config().data.sources.append("elsewhere")
    assert get_default_config().data.sources == ["market1501"]


def test_flatten_names_every_leaf():
    flat = flatten(get_default_config())
    assert flat["train.lr"] == 0.0003
    assert flat["embae.embedding.final_lr"] == 1e-7
    assert flat["loss.triplet.margin"] == 0.3
    assert not any(hasattr(value, "items") for value in flat.values())


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_works(path):
    cfg = load_config(path)
    if path.stem == "embae":  # to be inherited: it names no datasets
        cfg.data.sources = ["viper"]
    check_config(cfg)
    assert cfg.loss.name == "embae" and cfg.model.name.startswith("embae_")


def test_the_papers_recipe_is_what_embae_yaml_says():
    cfg = load_config("embae")
    assert (cfg.train.batch_size, cfg.sampler.num_instances) == (72, 4)  # P = 18, K = 4
    assert (cfg.train.lr, cfg.train.max_epoch, cfg.train.weight_decay) == (1e-4, 400, 0.0)
    assert (cfg.embae.embedding.constant_epochs, cfg.embae.embedding.final_lr) == (-1, 1e-7)
    assert (cfg.adam.beta1, cfg.adam.beta2) == (0.9, 0.999)
    assert (cfg.data.height, cfg.data.width, cfg.data.transforms) == (256, 128, ["random_flip"])
    assert cfg.embae.embedding.soft_margin and cfg.test.normalize_feature


def test_the_command_line_wins_over_the_file_and_the_file_over_its_base(tmp_path):
    write(tmp_path, "train: {lr: 0.5, max_epoch: 7}\ndata: {height: 64}\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\ntrain: {max_epoch: 8, batch_size: 12}\n")
    cfg = load_config(path, ["train.batch_size", "16", "data.sources", "['a', 'b']"])
    assert (cfg.train.lr, cfg.train.max_epoch, cfg.train.batch_size) == (0.5, 8, 16)
    assert (cfg.data.height, cfg.data.width, cfg.data.sources) == (64, 128, ["a", "b"])


def test_a_chain_of_bases_and_a_base_that_comes_with_the_package(tmp_path):
    write(tmp_path, "_BASE_: embae.yaml\ntrain: {max_epoch: 3}\n", "middle.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: middle.yaml\ntrain: {lr: 0.25}\n"))
    assert (cfg.train.lr, cfg.train.max_epoch, cfg.train.batch_size) == (0.25, 3, 72)


def test_bases_in_a_circle_are_refused(tmp_path):
    write(tmp_path, "_BASE_: b.yaml\n", "a.yaml")
    write(tmp_path, "_BASE_: a.yaml\n", "b.yaml")
    with pytest.raises(ValueError, match="name each other in a circle"):
        load_config(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="circle"):
        load_config(write(tmp_path, "_BASE_: self.yaml\n", "self.yaml"))


def test_a_file_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nosuch\.yaml does not exist.*synthetic\.yaml"):
        load_config(tmp_path / "nosuch.yaml")
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml does not exist"):
        load_config(write(tmp_path, "_BASE_: gone.yaml\n"))


def test_a_built_in_file_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("synthetic", "synthetic.yaml", "configs/synthetic.yaml"):
        assert find_config(name) == config_folder() / "synthetic.yaml"
    own = write(tmp_path, "train: {lr: 0.5}\n", "synthetic.yaml")
    assert find_config("synthetic.yaml").resolve() == own  # a path that exists comes first


@pytest.mark.parametrize(
    "text",
    ["train: [1, 2\n", "- a\n- b\n", "just words\n", "train: !!python/object/apply:os.getcwd []\n"],
)
def test_what_is_no_configuration_is_named(tmp_path, text):
    with pytest.raises(ValueError, match=r"run\.yaml: not a readable yaml"):
        load_config(write(tmp_path, text))


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path):
    path = write(tmp_path, "")
    assert load_config(path) == get_default_config()
    assert load_config(write(tmp_path, "train:\n  # lr: 0.1\n")) == get_default_config()


# --- keys and types -------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_a_near_one(tmp_path):
    path = write(tmp_path, "train:\n  batchsize: 3\n")
    with pytest.raises(ValueError, match=r"run\.yaml: .*'train\.batchsize'.*train\.batch_size\?"):
        load_config(path)
    with pytest.raises(ValueError, match=r"command line: .*'embae\.varants'.*embae\.variants\?"):
        load_config(options=["embae.varants", "['cam']"])
    with pytest.raises(ValueError, match=r"no configuration key 'qqqq'\.$"):
        load_config(options=["qqqq", "1"])


def test_a_section_in_place_of_a_key_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'embae\.test' is a section; set a key in it"):
        load_config(options=["embae.test", "flip"])
    with pytest.raises(ValueError, match=r"run\.yaml: 'train' is a section"):
        load_config(write(tmp_path, "train: 3\n"))
    with pytest.raises(ValueError, match=r"no configuration key 'train\.lr\.first'"):
        load_config(write(tmp_path, "train: {lr: {first: 1}}\n"))


def test_a_value_of_another_type_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"command line: Type mismatch.*train\.max_epoch"):
        load_config(options=["train.max_epoch", "many"])
    with pytest.raises(ValueError, match=r"run\.yaml: Type mismatch.*data\.sources"):
        load_config(write(tmp_path, "data: {sources: viper}\n"))
    with pytest.raises(ValueError, match=r"Type mismatch.*train\.lr"):
        load_config(options=["train.lr", "True"])
    with pytest.raises(ValueError, match=r"Type mismatch.*train\.max_epoch"):
        load_config(options=["train.max_epoch", "1.5"])


def test_none_is_no_value(tmp_path):
    with pytest.raises(ValueError, match=r"command line: train\.lr has no value"):
        load_config(options=["train.lr", "None"])
    with pytest.raises(ValueError, match=r"run\.yaml: data\.root has no value"):
        load_config(write(tmp_path, "data:\n  root:\n"))


def test_whole_numbers_do_where_the_default_has_a_fraction(tmp_path):
    cfg = load_config(options=["embae.save_interval", "0", "train.weight_decay", 0])
    assert (cfg.embae.save_interval, cfg.train.weight_decay) == (0.0, 0.0)
    assert isinstance(cfg.embae.save_interval, float)
    # yaml reads 1e-4, without a point, as a text
    cfg = load_config(write(tmp_path, "train: {lr: 1}\nembae: {transfer: {lr: 1e-4}}\n"))
    assert (cfg.train.lr, cfg.embae.transfer.lr) == (1.0, 1e-4)


def test_options_come_in_pairs():
    with pytest.raises(ValueError, match=r"pairs 'key value'; the last one, 'data\.root'"):
        load_config(options=["train.lr", "0.1", "data.root"])


def test_a_given_tree_is_copied_and_not_changed():
    base = get_default_config()
    assert load_config(options=["train.lr", "0.5"], base=base).train.lr == 0.5
    assert base.train.lr == 0.0003
