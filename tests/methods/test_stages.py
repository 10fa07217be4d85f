from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from embae_plugin.data.records import ImageRecords
from embae_plugin.losses import Bottleneck
from embae_plugin.methods import (
    VARIANTS,
    ImageAutoencoderEngine,
    ImageEmbeddingEngine,
    ImageTransferEngine,
)
from embae_plugin.methods.reconstruction_phase import merge_lone_groups
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from tests.methods.tiny import same_weights, tiny_model

SMALL = {"use_gpu": False, "seed": 3}


def embedding(data, store, model, **settings):
    options = {"batch_size": 12, "num_instances": 3, "lr": 1e-3, "transforms": ["random_flip"]}
    return ImageEmbeddingEngine(data, model, **{**options, **settings}, **SMALL, store=store)


def test_stage_1_lowers_the_loss_and_stays_in_its_own_parts(data, store, tmp_path):
    model = tiny_model()
    before = copy.deepcopy(model)
    history = embedding(data, store, model, lr=5e-3).run(tmp_path, max_epoch=15)
    assert [row["epoch"] for row in history] == list(range(1, 16))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert not same_weights(model.trunk, before.trunk)
    assert not same_weights(model.f_emb, before.f_emb)
    assert same_weights(model.f_nui, before.f_nui)
    assert same_weights(model.f_dec, before.f_dec)


@pytest.mark.parametrize(("encoders", "count"), [("common", 1), ("dataset", 2), ("camera", 5)])
def test_stage_2_learns_the_autoencoder_and_leaves_the_embedding_alone(
    data, store, tmp_path, encoders, count
):
    model = tiny_model()
    before = copy.deepcopy(model)
    engine = ImageAutoencoderEngine(data, model, encoders, batch_size=20, **SMALL, store=store)
    history = engine.run(tmp_path, max_epoch=6)
    assert history[-1]["reconstruction"] < history[0]["reconstruction"]
    assert model.f_nui.num_heads == count
    assert same_weights(model.trunk, before.trunk)
    assert same_weights(model.f_emb, before.f_emb)
    assert not same_weights(model.f_dec, before.f_dec)


def adapt(data, store, folder, variant, **settings):
    model = tiny_model()
    ImageAutoencoderEngine(
        data, model, VARIANTS[variant].encoders, batch_size=20, **SMALL, store=store
    ).run(folder, max_epoch=2)
    before = copy.deepcopy(model)
    options = {"nuisance_epoch": 2, "lr": 1e-3, "batch_size": 16, **settings}
    engine = ImageTransferEngine(data, model, variant, **options, **SMALL, store=store)
    engine.run(folder, max_epoch=2)
    return before, model


# What each variant may change (paper 4.1): part, and how many encoders it ends with.
@pytest.mark.parametrize(
    ("variant", "nuisance_changes", "encoders"),
    [("all", True, 1), ("fix", False, 1), ("new", True, 1), ("dataset", True, 1), ("cam", True, 3)],
)
def test_each_variant_changes_what_the_paper_says(
    data, store, tmp_path, variant, nuisance_changes, encoders
):
    before, after = adapt(data, store, tmp_path, variant)
    assert same_weights(before.trunk, after.trunk)
    assert not same_weights(before.f_emb, after.f_emb)
    assert not same_weights(before.f_dec, after.f_dec)
    assert same_weights(before.f_nui, after.f_nui) is not nuisance_changes
    assert after.f_nui.num_heads == encoders


def test_the_first_step_of_new_moves_only_the_nuisance_encoder(data, store, tmp_path):
    model = tiny_model()
    ImageAutoencoderEngine(data, model, "common", batch_size=20, **SMALL, store=store).run(
        tmp_path, max_epoch=1
    )
    before = copy.deepcopy(model)
    engine = ImageTransferEngine(data, model, "new", nuisance_epoch=2, **SMALL, store=store)
    engine.run(tmp_path, max_epoch=0)
    for part in ("trunk", "f_emb", "f_dec"):
        assert same_weights(getattr(model, part), getattr(before, part)), part
    assert not same_weights(model.f_nui, before.f_nui)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_without_a_nuisance_code_z_id_alone_reconstructs(data, store, tmp_path, variant):
    model = EmbAE(build_trunk("mobilenetv1_x0_25"), z_id_dim=8, z_nui_dim=0, hidden_dim=16)
    pretrain = ImageAutoencoderEngine(
        data, model, VARIANTS[variant].encoders, batch_size=20, **SMALL, store=store
    )
    pretrain.run(tmp_path, max_epoch=2)
    before = copy.deepcopy(model)
    engine = ImageTransferEngine(
        data, model, variant, lr=1e-2, batch_size=16, nuisance_epoch=2, **SMALL, store=store
    )
    history = engine.run(tmp_path, max_epoch=4)
    assert [row["phase"] for row in history] == ["embedding"] * 4  # nothing to renew
    assert model.f_nui.num_heads == {"cam": 3}.get(variant, 1)  # one for each target camera
    assert history[-1]["reconstruction"] < history[0]["reconstruction"]
    assert not same_weights(model.f_emb, before.f_emb)
    again = EmbAE.from_spec(model.spec())
    again.load_state_dict(model.state_dict())
    assert same_weights(again, model)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_wrong_target_identities_change_no_bit(data, store, tmp_path, variant):
    """Even given the labelled target's records, what the engines learn does not depend on them."""
    results = []
    for name, pids in (("right", np.arange(63)), ("wrong", np.zeros(63, dtype=np.int64))):
        labelled = replace(data.target_train, pids=pids.astype(np.int64))
        changed = copy.copy(data)
        changed.target_train = labelled
        results.append(adapt(changed, store, tmp_path / name, variant)[1])
    assert same_weights(*results)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data, store, tmp_path):
    runs = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        model = tiny_model()
        engine = ImageEmbeddingEngine(
            data, model, batch_size=12, num_instances=3, transforms=["random_flip"],
            use_gpu=False, seed=seed, store=store,
            precision="float32",  # bfloat16 gradients of maps a pixel wide can be anything
        )
        engine.run(tmp_path / name, max_epoch=2)
        runs.append(model)
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_impossible_settings_are_refused_before_any_image_is_read(data, store):
    with pytest.raises(ValueError, match="variant: 'camera' is not one of all, fix"):
        ImageTransferEngine(data, tiny_model(), "camera", **SMALL, store=store)
    with pytest.raises(ValueError, match="encoders: 'cams' is not one of common, dataset, camera"):
        ImageAutoencoderEngine(data, tiny_model(), "cams", **SMALL, store=store)
    with pytest.raises(ValueError, match=r"K = 5\) does not divide"):
        embedding(data, store, tiny_model(), num_instances=5).phases(1)
    with pytest.raises(ValueError, match="identities"):
        embedding(data, store, tiny_model(), batch_size=72).phases(1)
    without = copy.copy(data)
    without.target_train = None
    with pytest.raises(ValueError, match="no target images"):
        ImageTransferEngine(without, tiny_model(), "cam", **SMALL, store=store)
    with pytest.raises(ValueError, match="needs an EmbAE model"):
        ImageTransferEngine(data, torch.nn.Linear(2, 2), "cam", **SMALL, store=store)


def test_a_camera_with_one_image_shares_an_encoder_and_says_so(caplog):
    groups = torch.tensor([0, 0, 0, 1, 2, 2])
    assert merge_lone_groups(groups).tolist() == [0, 0, 0, 0, 1, 1]
    assert "camera(s) 1 have fewer than 2 images" in caplog.text
    assert merge_lone_groups(torch.tensor([0])).tolist() == [0]


def test_cam_works_with_a_lone_image_and_with_one_camera(data, store, tmp_path):
    target = data.target_train
    lone = np.ones(len(target), dtype=np.int64)
    lone[5] = 9
    for name, camids in (("lone", lone), ("one", np.zeros_like(lone))):
        changed = copy.copy(data)
        changed.target_train = ImageRecords(target.paths, camids, target.dsetids)
        _, model = adapt(changed, store, tmp_path / name, "cam")
        assert model.f_nui.num_heads == 1
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


HELD = {"noise": 1.0, "dropout": 0.5, "variational": 0.01, "decorrelation": 5.0}


def held_autoencoder(data, store, folder, **settings):
    model = tiny_model()
    engine = ImageAutoencoderEngine(
        data, model, "camera", batch_size=20, bottleneck=Bottleneck(**settings), **SMALL,
        store=store,
    )
    history = engine.run(folder, max_epoch=4)
    return model, history, engine


@pytest.mark.parametrize("name", HELD)
def test_each_bottleneck_changes_what_is_learned_and_repeats(data, store, tmp_path, name):
    free, *_ = held_autoencoder(data, store, tmp_path / "free")
    held, history, engine = held_autoencoder(data, store, tmp_path / "1", **{name: HELD[name]})
    again, *_ = held_autoencoder(data, store, tmp_path / "2", **{name: HELD[name]})
    assert not same_weights(free.f_nui, held.f_nui)
    assert same_weights(again, held)
    assert engine.identity()[f"bottleneck.{name}"] == HELD[name]
    assert history[-1]["reconstruction"] < history[0]["reconstruction"]


@pytest.mark.parametrize("name", HELD)
def test_an_adaptation_learns_f_emb_under_each_bottleneck(data, store, tmp_path, name):
    bottleneck = Bottleneck(**{name: HELD[name]})
    _, free = adapt(data, store, tmp_path / "free", "cam")
    _, held = adapt(data, store, tmp_path / "held", "cam", bottleneck=bottleneck)
    assert not same_weights(free.f_emb, held.f_emb)


def test_more_noise_leaves_more_of_the_error_to_z_id(data, store, tmp_path):
    errors = [
        held_autoencoder(data, store, tmp_path / str(n), noise=n)[1][-1]["reconstruction"]
        for n in (0.0, 1.0, 10.0)
    ]
    assert errors == sorted(errors)
