"""Configurations that cannot work are refused before anything is loaded, by the key's name."""

from __future__ import annotations

import pytest

from embae_plugin.settings.config import check_config, get_default_config, load_config

GOOD = [
    "loss.name", "embae", "model.name", "embae_mobilenetv1", "data.sources", "['viper']",
]

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
    ("embae.image_memory_share", "1.5", r"image_memory_share is 1\.5; it must be .* at most 1"),
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
    ("model.name", "resnet50", r"needs an EmbAE model, .*model\.name is 'resnet50'"),
    ("model.resume", "a.pth", r"model\.resume is torchreid's own"),
    ("embae.adapt.largest_cluster", "30", r"largest_cluster is 30\S* it must be .* at most 1"),
    ("embae.nuisance.dropout", "1.0", r"nuisance\.dropout is 1\.0; .*below 1"),
    ("test.rerank", "True", r"test\.rerank is torchreid's own"),
    ("test.visrank", "True", r"test\.visrank is torchreid's own"),
    ("cuhk03.use_metric_cuhk03", "True", r"use_metric_cuhk03 is torchreid's own"),
    ("data.k_tfm", "2", r"data\.k_tfm is torchreid's own .*leave it at 1"),
    ("train.fixbase_epoch", "2", r"train\.fixbase_epoch is torchreid's own"),
    ("train.start_epoch", "2", r"train\.start_epoch is torchreid's own"),
]
MUST_BE_POSITIVE = [
    "embae.z_id_dim", "embae.hidden_dim", "data.height", "data.width",
    "train.batch_size", "test.batch_size", "sampler.num_instances", "train.lr",
    "embae.autoencoder.batch_size", "embae.transfer.batch_size", "embae.embedding.final_lr",
    "embae.autoencoder.lr", "embae.autoencoder.final_lr", "embae.transfer.lr",
    "embae.transfer.nuisance_lr", "embae.transfer.final_lr",
]
MUST_NOT_BE_NEGATIVE = [
    "embae.z_nui_dim", "embae.nuisance.noise", "embae.nuisance.dropout",
    "embae.nuisance.variational", "embae.nuisance.decorrelation",
    "train.max_epoch", "train.weight_decay", "embae.autoencoder.max_epoch",
    "embae.transfer.max_epoch", "embae.transfer.nuisance_epoch",
    "embae.save_interval",
]


def test_the_configuration_that_the_refusals_start_from_is_fine():
    check_config(load_config(options=GOOD))
    check_config(get_default_config())  # torchreid's own: softmax


def test_the_normalisation_is_left_to_the_trunk_or_given_or_half_of_it():
    assert load_config(options=GOOD).data.norm_mean == []
    for key in ("data.norm_mean", "data.norm_std"):
        check_config(load_config(options=[*GOOD, key, "[0.4, 0.5, 0.6]"]))
    stock = get_default_config()
    stock.data.norm_std = []
    with pytest.raises(ValueError, match=r"data\.norm_std is \[\]; it must be 3 numbers"):
        check_config(stock)


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
    with pytest.raises(ValueError, match=rf"{key} is -1(\.0)?; it must be at least 0"):
        check_config(cfg)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_learning_rate_is_a_number(value):
    cfg = load_config(options=[*GOOD, "train.lr", value])
    with pytest.raises(ValueError, match=rf"train\.lr is {value}"):
        check_config(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [("loss.triplet.weight_x", "1.0"), ("train.open_layers", "['fc']"), ("sampler.num_cams", "2"),
     ("loss.softmax.label_smooth", "False"), ("video.seq_len", "3"), ("test.visrank_topk", "5")],
)
def test_a_key_of_torchreids_is_followed_or_refused_by_name(key, value):
    check_config(load_config(options=[key, value]))  # torchreid's own losses follow it
    with pytest.raises(ValueError, match=rf"{key} is torchreid's own and not part of "):
        check_config(load_config(options=[*GOOD, key, value]))


def test_the_keys_of_another_schedule_or_loss_are_refused():
    paper = [*GOOD, "train.lr_scheduler", "exponential"]
    check_config(load_config(options=[*GOOD, "train.gamma", "0.5"]))
    with pytest.raises(ValueError, match="train.gamma is of other schedules"):
        check_config(load_config(options=[*paper, "train.gamma", "0.5"]))
    hinge = ["loss.triplet.margin", "0.5", "embae.embedding.soft_margin"]
    check_config(load_config(options=[*GOOD, *hinge, "False"]))
    with pytest.raises(ValueError, match="loss.triplet.margin is the hinge's"):
        check_config(load_config(options=[*GOOD, *hinge, "True"]))


def test_a_sampler_that_does_not_draw_the_batches_is_refused():
    with pytest.raises(ValueError, match="sampler.train_sampler: 'Nonsense' is not one of"):
        check_config(load_config(options=[*GOOD, "sampler.train_sampler", "Nonsense"]))


def test_torchreids_loader_draws_datasets_in_one_way_only():
    loader = [*GOOD, "data.transforms", "['color_jitter']"]
    check_config(load_config(options=loader))
    with pytest.raises(ValueError, match="dataset_choice at proportional"):
        check_config(load_config(options=[*loader, "embae.embedding.dataset_choice", "uniform"]))


def test_rows_that_the_stages_leave_out_are_refused_and_the_others_are_not():
    only = [*GOOD, "embae.stages", "['embedding']", "embae.variants"]
    check_config(load_config(options=[*only, "['baseline', 'cam', 'clusters-trunk']"]))
    with pytest.raises(ValueError, match=r"embae.variants names norm\+cam, which needs stages"):
        check_config(load_config(options=[*only, "['norm+cam']"]))


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
               "data.targets", "['market1501', 'viper']"]
    check_config(load_config(options=options))


def test_a_code_that_is_not_there_cannot_be_held_back():
    options = ["embae.z_nui_dim", "0", "embae.nuisance.noise", "1.0"]
    with pytest.raises(ValueError, match=r"embae\.nuisance\.noise: with embae\.z_nui_dim 0"):
        check_config(load_config(options=[*GOOD, *options]))


def test_statistics_by_camera_cannot_be_captured_in_a_graph():
    options = ["embae.embedding.camera_norm", "True", "embae.embedding.step", "graph"]
    with pytest.raises(ValueError, match="graph cannot be had with embae.embedding.camera_norm"):
        check_config(load_config(options=[*GOOD, *options]))
