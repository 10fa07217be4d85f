"""The tree equals torchreid's, and whatever cannot work is refused with the key's name."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from embae_plugin.config import (
    check_config,
    engine_run_kwargs,
    flatten,
    get_default_config,
    imagedata_kwargs,
    load_config,
    lr_scheduler_kwargs,
    optimizer_kwargs,
)
from embae_plugin.config_files import config_folder, find_config

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
    assert flat["embae.embedding.constant_epochs"] == 100
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
    assert (cfg.embae.embedding.constant_epochs, cfg.embae.embedding.final_lr) == (100, 1e-7)
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
    with pytest.raises(ValueError, match=r"run\.yaml: not a readable yaml configuration"):
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


# --- what cannot work -----------------------------------------------------------------------

GOOD = [
    "loss.name", "embae", "model.name", "embae_mobilenetv1", "data.sources", "['viper']",
]  # fmt: skip

REFUSED = [
    ("embae.stages", "['embeding']", r"embae\.stages: 'embeding' .*did you mean embedding\?"),
    ("embae.stages", "['embedding', 'transfer']", r"transfer starts from the autoencoder"),
    ("embae.variants", "['cams']", r"embae\.variants: 'cams' .*did you mean cam\?"),
    ("embae.head_order", "bn", r"embae\.head_order: 'bn' is not one of relu_bn, bn_relu"),
    ("embae.test.tta", "crops", r"embae\.test\.tta: 'crops'.*none, flip, ten_crop"),
    ("embae.test.protocols", "['duke']", r"embae\.test\.protocols: 'duke'"),
    ("embae.test.protocols", "[]", r"embae\.test\.protocols is empty"),
    ("embae.embedding.dataset_choice", "equal", r"dataset_choice: 'equal'"),
    ("embae.embedding.precision", "fp16", r"precision: 'fp16'.*auto, float32, bf16"),
    ("embae.embedding.step", "fast", r"embae\.embedding\.step: 'fast'"),
    ("embae.image_memory_share", "1.5", r"image_memory_share is 1\.5; it is a share"),
    ("embae.image_memory_share", "0", r"image_memory_share is 0\.0"),
    ("data.norm_std", "[0.5, 0.5, 0]", r"data\.norm_std is .*greater than 0"),
    ("data.norm_std", "[0.5]", r"data\.norm_std is \[0\.5\]; it must be 3 numbers"),
    ("data.norm_mean", "[0, 0, 'x']", r"data\.norm_mean is .*3 numbers"),
    ("train.batch_size", "30", r"train\.batch_size is 30, .*K = 4.* 28 or 32 would do"),
    ("train.batch_size", "3", r"does not divide; 4 would do"),
    ("test.ranks", "[0, 1]", r"test\.ranks is \[0, 1\]; .*from 1 to 50"),
    ("test.ranks", "[1, 51]", r"test\.ranks"),
    ("test.dist_metric", "manhattan", r"test\.dist_metric: 'manhattan'"),
    ("data.transforms", "['random_filp']", r"'random_filp'.*did you mean random_flip\?"),
    ("data.transforms", "[1]", r"data\.transforms: 1 is not one of"),
    ("train.optim", "adm", r"train\.optim: 'adm' .*did you mean adam\?"),
    ("train.lr_scheduler", "linear", r"train\.lr_scheduler: 'linear'.*exponential"),
    ("data.sources", "[]", r"data\.sources is empty"),
    ("data.targets", "[]", r"data\.targets is empty"),
    ("data.targets", "['market1501', 'viper']", r"one target in a run, data\.targets has 2"),
    ("data.targets", "['viper']", r"viper is both a source and the target"),
    ("data.type", "video", r"data\.type is 'video'"),
    ("model.name", "resnet50", r"needs an EmbAE model, model\.name is 'resnet50'"),
    ("model.resume", "a.pth", r"model\.resume is torchreid's own"),
    ("test.rerank", "True", r"test\.rerank is torchreid's own"),
    ("test.visrank", "True", r"test\.visrank is torchreid's own"),
    ("cuhk03.use_metric_cuhk03", "True", r"use_metric_cuhk03 is torchreid's own"),
    ("data.k_tfm", "2", r"data\.k_tfm is torchreid's own .*leave it at 1"),
    ("train.fixbase_epoch", "2", r"train\.fixbase_epoch is torchreid's own"),
    ("train.start_epoch", "2", r"train\.start_epoch is torchreid's own"),
]
MUST_BE_POSITIVE = [
    "embae.z_id_dim", "embae.z_nui_dim", "embae.hidden_dim", "data.height", "data.width",
    "train.batch_size", "test.batch_size", "sampler.num_instances", "train.lr",
    "embae.autoencoder.batch_size", "embae.transfer.batch_size", "embae.embedding.final_lr",
    "embae.autoencoder.lr", "embae.autoencoder.final_lr", "embae.transfer.lr",
    "embae.transfer.nuisance_lr", "embae.transfer.final_lr",
]  # fmt: skip
MUST_NOT_BE_NEGATIVE = [
    "train.max_epoch", "train.weight_decay", "embae.autoencoder.max_epoch",
    "embae.transfer.max_epoch", "embae.transfer.nuisance_epoch",
    "embae.embedding.constant_epochs", "embae.save_interval",
]  # fmt: skip


def test_the_configuration_that_the_refusals_start_from_is_fine():
    check_config(load_config(options=GOOD))
    check_config(get_default_config())  # torchreid's own: softmax


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_cannot_work_is_refused_by_name(key, value, message):
    cfg = load_config(options=[*GOOD, key, value])
    with pytest.raises(ValueError, match=message):
        check_config(cfg)


@pytest.mark.parametrize("key", MUST_BE_POSITIVE)
def test_zero_is_refused_where_a_quantity_is_needed(key):
    cfg = load_config(options=[*GOOD, key, "0"])
    with pytest.raises(ValueError, match=rf"{key} is 0(\.0)?; it must be greater than 0"):
        check_config(cfg)


@pytest.mark.parametrize("key", MUST_NOT_BE_NEGATIVE)
def test_negative_is_refused_and_zero_is_not(key):
    check_config(load_config(options=[*GOOD, key, "0"]))
    cfg = load_config(options=[*GOOD, key, "-1"])
    with pytest.raises(ValueError, match=rf"{key} is -1(\.0)?; it must not be negative"):
        check_config(cfg)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_learning_rate_is_a_number(value):
    cfg = load_config(options=[*GOOD, "train.lr", value])
    with pytest.raises(ValueError, match=rf"train\.lr is {value}"):
        check_config(cfg)


def test_a_graph_needs_adam():
    cfg = load_config(options=[*GOOD, "embae.embedding.step", "graph", "train.optim", "sgd"])
    with pytest.raises(ValueError, match="graph works with train.optim adam only"):
        check_config(cfg)


def test_a_source_may_be_the_target_where_nothing_is_adapted():
    stages = ["embae.stages", "['embedding']", "data.targets", "['viper']"]
    check_config(load_config(options=[*GOOD, *stages]))
    check_config(load_config(options=[*GOOD, *stages[:2], "data.targets", "[]"]))


def test_torchreids_own_losses_keep_torchreids_freedom():
    options = ["loss.name", "triplet", "test.rerank", "True", "train.batch_size", "30",
               "data.targets", "['market1501', 'viper']"]  # fmt: skip
    check_config(load_config(options=options))
