"""PUL: the selection rule by hand, its rounds, and that nothing is learned from true identities."""

from __future__ import annotations

import copy
import logging
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics.cluster import contingency_matrix

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.methods import ImageIdentificationEngine, ImagePULEngine
from embae_plugin.methods.pul import kmeans, purity, reliable_images
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from embae_plugin.training.schedule import seeded
from tests.methods.tiny import (
    same_weights,
    two_layer_model,
    two_layer_trunk,
)

PEOPLE = np.repeat(np.arange(7), 9)  # of the tiny target's images, in order


def engine_of(data, store, model, **settings):
    options = {"rounds": 2, "clusters": 6, "threshold": 0.998, "lr": 1e-2, "seed": 3,
               "precision": "float32"}
    return ImagePULEngine(data, model, **{**options, **settings}, use_gpu=False, store=store)


def pooled_model():
    return EmbAE.of_trunk(two_layer_trunk())


# --- the selection rule ---------------------------------------------------------------------

# Cluster 0 lies about (4, 0), cluster 1 about (0, 2), as unit vectors at these degrees:
#   image    0: 0°   1: 20°  2: 40° | 3: 90°  4: 100°  5: 45°
# cosines to 0's own seed (image 0): 1, .940, .766; to 1's (image 3): 1, .985, .707.
ANGLES = np.deg2rad([0, 20, 40, 90, 100, 45])
LENGTHS = np.array([4, 3, 5, 2, 2.5, 1])[:, None]
FEATURES = (np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * LENGTHS).astype(np.float32)
CENTRES = np.array([[4, 0.1], [0, 2]], dtype=np.float32)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_the_seed_is_the_image_of_the_cluster_nearest_its_centre():
    assert reliable_images(FEATURES, CENTRES, LABELS).seeds.tolist() == [0, 3]
    # Image 3 is nearest both centres, but it is one of cluster 1's; of cluster 0's that is 1, at
    # (2.82, 1.03).
    both = np.array([[0, 2.1], [0, 2]], dtype=np.float32)
    assert reliable_images(FEATURES, both, LABELS).seeds.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("threshold", "own", "any_seed"),
    [
        (0.85, [1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]),
        (0.75, [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]),
        # Image 5 is 45° from either seed; image 2 (40°) is 50° from the other cluster's, .643.
        (0.70, [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]),
        (0.99, [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0]),
    ],
)
def test_an_image_is_kept_if_its_cosine_to_the_seed_exceeds_the_threshold(threshold, own, any_seed):
    for near_any, expected in ((False, own), (True, any_seed)):
        kept = reliable_images(FEATURES, CENTRES, LABELS, threshold, near_any).kept
        assert kept.astype(int).tolist() == expected


def test_the_two_readings_differ_where_an_image_is_near_another_clusters_seed():
    labels = np.array([0, 1, 0, 1, 1, 1])  # image 1, 20° from seed 0, now belongs to cluster 1
    article = reliable_images(FEATURES, CENTRES, labels, 0.85)
    script = reliable_images(FEATURES, CENTRES, labels, 0.85, near_any_seed=True)
    assert article.seeds.tolist() == script.seeds.tolist() == [0, 3]
    assert article.kept.astype(int).tolist() == [1, 0, 0, 1, 1, 0]
    assert script.kept.astype(int).tolist() == [1, 1, 0, 1, 1, 0]


def test_the_threshold_itself_is_not_enough():
    square = np.array([[1, 0], [0, 1]], dtype=np.float32)
    together = np.zeros(2, dtype=np.int64)
    assert reliable_images(square, square[:1], together, 0.0).kept.tolist() == [True, False]
    assert reliable_images(square, square[:1], together, -0.1).kept.tolist() == [True, True]


def test_ties_empty_clusters_and_features_of_length_zero():
    features = np.array([[1, 0], [1, 0], [0, 0]], dtype=np.float32)
    centres = np.array([[1, 0], [9, 9], [0, 0]], dtype=np.float32)
    found = reliable_images(features, centres, np.array([0, 0, 2]))
    assert found.seeds.tolist() == [0, 2]  # the first of equals; cluster 1 has none
    assert found.kept.tolist() == [True, True, False]


@pytest.mark.parametrize("near_any_seed", [False, True])
def test_selection_agrees_with_a_plain_loop(near_any_seed):
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    centres = rng.normal(size=(8, 5)).astype(np.float32)
    labels = np.square(features[:, None] - centres).sum(2).argmin(1)
    found = reliable_images(features, centres, labels, 0.6, near_any_seed)
    seeds = {}
    for cluster in set(labels.tolist()):
        members = [i for i in range(60) if labels[i] == cluster]
        away = np.linalg.norm(features[members] - centres[cluster], axis=1)
        seeds[cluster] = members[int(away.argmin())]
    for i, own in enumerate(labels.tolist()):
        candidates = seeds.values() if near_any_seed else [seeds[own]]
        cosines = [
            features[i] @ features[s] / np.linalg.norm(features[i]) / np.linalg.norm(features[s])
            for s in candidates
        ]
        assert found.kept[i] == (max(cosines) > 0.6)
    assert found.seeds.tolist() == [seeds[cluster] for cluster in sorted(seeds)]


def test_purity_is_the_share_of_the_commonest_person():
    labels, pids = np.array([0, 0, 0, 1, 1, 5]), np.array([8, 8, 3, 3, 8, 3])
    assert purity(labels, pids) == pytest.approx((2 + 1 + 1) / 6)
    rng = np.random.default_rng(0)
    labels, pids = rng.integers(0, 9, 200), rng.integers(-1, 5, 200)
    assert purity(labels, pids) == contingency_matrix(labels, pids).max(1).sum() / 200
    assert np.isnan(purity(labels[:0], pids[:0]))


def test_kmeans_finds_clear_clusters_and_depends_on_its_seed_alone():
    corners = np.array([[0, 0], [9, 0], [0, 9]]).repeat(10, axis=0)
    noise = np.random.default_rng(1).normal(0, 0.3, corners.shape)
    features = (corners + noise).astype(np.float32)
    centres, labels = kmeans(features, 3, seeded("a"))
    groups = labels.reshape(3, 10)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0].tolist())) == 3
    np.testing.assert_allclose(centres[groups[0, 0]], features[:10].mean(0), atol=1e-5)
    again = kmeans(features, 3, seeded("a"))
    assert np.array_equal(labels, again[1]) and np.array_equal(centres, again[0])
    assert centres.dtype == np.float32 and labels.dtype == np.int64


# --- rounds ---------------------------------------------------------------------------------


def test_rounds_learn_their_clusters_and_log_what_they_kept(data, store, tmp_path, caplog):
    model = two_layer_model()
    before = copy.deepcopy(model)
    engine = engine_of(data, store, model, monitor_pids=PEOPLE, dropout=0.0, lr=0.05)
    with caplog.at_level(logging.INFO):
        history = engine.run(tmp_path, max_epoch=4)
    assert [(row["phase"], row["epoch"]) for row in history] == [
        (f"round {n}", epoch) for n in (1, 2) for epoch in (1, 2, 3, 4)
    ]
    for first, last in ((history[0], history[3]), (history[4], history[7])):
        assert last["loss"] < 0.8 * first["loss"] and last["accuracy"] > first["accuracy"]
        assert 6 <= first["kept"] == last["kept"] <= 63 and first["clusters"] == 6
        assert 1 / 7 <= first["purity"] <= 1
    assert "pul, round 1: of 63 images kept" in caplog.text and "purity" in caplog.text
    assert not same_weights(model.trunk, before.trunk)
    assert not same_weights(model.f_emb, before.f_emb)
    assert same_weights(model.f_nui, before.f_nui) and same_weights(model.f_dec, before.f_dec)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    assert set(engine.scores()) == {"market", "nd"}


def test_the_second_round_clusters_the_weights_that_the_first_left(data, store, tmp_path):
    once, twice = two_layer_model(), two_layer_model()
    engine_of(data, store, once, rounds=1).run(tmp_path / "once", max_epoch=1)
    engine = engine_of(data, store, twice)
    phases = engine.phases(1)
    for phase in phases:
        phase.start()
        phase.start_epoch(0)
        if phase is phases[-1]:
            assert same_weights(twice, once)
        else:
            for step in range(phase.steps):
                phase.step(0, step)


def test_restart_begins_each_round_from_the_initial_weights(data, store):
    model = two_layer_model()
    initial = copy.deepcopy(model)
    engine = engine_of(data, store, model, restart=True)
    first, second = engine.phases(1)
    first.start()
    first.start_epoch(0)
    first.step(0, 0)
    assert not same_weights(model, initial)
    second.start()
    second.start_epoch(0)
    assert same_weights(model, initial)
    second.step(0, 0)
    second.start_epoch(1)
    assert not same_weights(model, initial)  # once in a round, not in each epoch


def test_only_kept_images_are_learned_from_each_once_an_epoch(data, store):
    engine = engine_of(data, store, two_layer_model(), batch_size=4)
    phase = engine.phases(1)[0]
    phase.start()
    phase.start_epoch(0)
    kept = (phase.classes >= 0).nonzero().flatten()
    drawn = phase.plan.flatten()
    assert 6 <= len(kept) < 63 and phase.plan.shape == (len(kept) // 4, 4)
    assert len(drawn.unique()) == len(drawn) and set(drawn.tolist()) <= set(kept.tolist())
    assert phase.classes[kept].unique().tolist() == list(range(phase.classifier.out_features))
    plan = phase.plan
    phase.start_epoch(1)
    assert not torch.equal(plan, phase.plan)
    assert data.target_train.paths[int(phase.plan[0, 0])] in phase.describe(1, 0)


def test_heads_only_leaves_the_trunk_alone(data, store, tmp_path):
    model = two_layer_model()
    before = copy.deepcopy(model)
    engine_of(data, store, model, heads_only=True).run(tmp_path, max_epoch=2)
    assert same_weights(model.trunk, before.trunk)
    assert not same_weights(model.f_emb, before.f_emb)


def test_its_own_baseline_is_trained_on_the_sources_and_then_adapted(data, store, tmp_path):
    model = pooled_model()
    options = {"use_gpu": False, "seed": 3, "store": store, "precision": "float32"}
    baseline = ImageIdentificationEngine(data, model, lr=1e-2, dropout=0.2, **options)
    history = baseline.run(tmp_path, max_epoch=5)
    assert history[-1]["loss"] < history[0]["loss"]
    trained = copy.deepcopy(model)
    engine = engine_of(data, store, model)
    engine.run(tmp_path, max_epoch=1)
    assert not same_weights(model, trained)
    assert 0 <= engine.scores()["market"].rank1 <= 1
    assert load_checkpoint(tmp_path / "pul" / "last.pth")["spec"]["head"] == "none"


def test_a_pooled_model_is_built_again_from_its_description():
    model = EmbAE.of_trunk(build_trunk("mobilenetv1_x0_25"))
    assert model.feature_dim == model.trunk.feature_dim == 256
    restored = EmbAE.from_spec(model.spec())
    assert restored.head == "none" and restored.f_nui is None
    restored.load_state_dict(model.state_dict())
    assert same_weights(restored, model)
    x = torch.rand(2, 3, 32, 16)
    assert torch.equal(model.eval()(x), model.trunk(x))
    full = EmbAE(model.trunk, z_id_dim=8, z_nui_dim=6, hidden_dim=16)
    assert isinstance(EmbAE.from_spec(full.spec()), EmbAE)


# --- bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "stopped_at"),
    [({}, 2), ({"restart": True}, 5), ({"heads_only": True}, 5), ({"restart": True}, 8)],
)
def test_ctrl_c_then_the_same_command_ends_with_the_same_bits(
    data, store, tmp_path, settings, stopped_at
):
    def make(model):
        return engine_of(data, store, model, batch_size=12, **settings)

    whole, cut, resumed = two_layer_model(), two_layer_model(), two_layer_model()
    history = make(whole).run(tmp_path / "whole", max_epoch=2)
    engine, count = make(cut), 0
    plan = engine.phases

    def phases(max_epoch):
        made = plan(max_epoch)
        for phase in made:
            phase.step = counted(phase.step)
        return made

    def counted(step):
        def run(*where):
            nonlocal count
            count += 1
            if count == stopped_at:
                signal.raise_signal(signal.SIGINT)
            return step(*where)

        return run

    engine.phases = phases
    with pytest.raises(Interrupted):
        engine.run(tmp_path / "cut", max_epoch=2)
    assert make(resumed).run(tmp_path / "cut", max_epoch=2) == history
    assert same_weights(whole, resumed)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data, store, tmp_path):
    runs = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        torch.manual_seed(len(runs))
        model = two_layer_model()
        torch.manual_seed(len(runs))  # the global state is not drawn from
        engine_of(data, store, model, rounds=1, seed=seed).run(tmp_path / name, max_epoch=1)
        runs.append(model)
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_wrong_target_identities_change_no_bit(data, store, tmp_path):
    wrong = copy.copy(data)
    wrong.target_train = replace(data.target_train, pids=np.zeros(63, dtype=np.int64))
    cases = (("none", data, None), ("right", data, PEOPLE), ("wrong", wrong, PEOPLE[::-1]))
    runs = []
    for name, given, pids in cases:
        runs.append(two_layer_model())
        engine_of(given, store, runs[-1], monitor_pids=pids).run(tmp_path / name, max_epoch=1)
    assert same_weights(runs[0], runs[1]) and same_weights(runs[0], runs[2])


# --- errors ---------------------------------------------------------------------------------


def test_impossible_settings_are_refused(data, store):
    for settings, message in (
        ({"clusters": 64}, "64 clusters of 63 target images"),
        ({"clusters": 1}, "at least 2"),
        ({"threshold": 1.0}, "threshold is 1.0; it must be at least -1 and below 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
        ({"monitor_pids": [1, 2]}, "2 monitor_pids for 63"),
        ({"transforms": ["color_jitter"]}, "color_jitter"),
        ({"precision": "half"}, "precision: 'half'"),
    ):
        with pytest.raises(ValueError, match=message):
            engine_of(data, store, two_layer_model(), **settings)
    with pytest.raises(ValueError, match="a trunk alone"):
        engine_of(data, store, pooled_model(), heads_only=True)
    with pytest.raises(ValueError, match="needs an EmbAE model"):
        engine_of(data, store, torch.nn.Linear(2, 2))
    without = copy.copy(data)
    without.target_train = None
    with pytest.raises(ValueError, match="no target images"):
        engine_of(without, store, two_layer_model())


def test_a_source_without_identities_or_with_one_is_refused(data, store):
    blank = copy.copy(data)
    one = np.ones(66, dtype=np.int64)
    for pids, message in ((None, "carry none"), (one, "at least 2 classes")):
        blank.source = replace(data.source, pids=pids)
        engine = ImageIdentificationEngine(blank, pooled_model(), use_gpu=False, store=store)
        with pytest.raises(ValueError, match=message):
            engine.phases(1)


def test_a_round_that_finds_nothing_to_learn_says_so(data, store, tmp_path):
    model = two_layer_model()
    with torch.no_grad():
        model.f_emb.fc2.weight.zero_()
        model.f_emb.fc2.bias.zero_()
    message = "round 1: only 0 of 63 images, in 0 cluster.*collapsed"
    with pytest.warns(Warning, match="distinct"), pytest.raises(ValueError, match=message):
        engine_of(data, store, model).run(tmp_path, max_epoch=1)


def test_another_configuration_is_refused_by_name(data, store, tmp_path):
    engine_of(data, store, two_layer_model()).run(tmp_path, max_epoch=0)
    with pytest.raises(ValueError, match="near_any_seed: False then, True now"):
        engine_of(data, store, two_layer_model(), near_any_seed=True).run(tmp_path, max_epoch=0)


def test_torchreid_has_the_engine():
    assert bridge.library.engines.ImagePULEngine is ImagePULEngine
