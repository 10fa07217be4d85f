"""Pseudo-labels by clusters: what is learned, its bits, and that no true identity is read."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embae_plugin.clustering import PseudoLabels
from embae_plugin.data.batches import identity_batches
from embae_plugin.data.few_cameras import camera_batches
from embae_plugin.embedder import embed_records
from embae_plugin.methods.camera_statistics import estimate
from embae_plugin.methods.clusters import ImageClusterEngine, NotPeople
from embae_plugin.methods.run_settings import AdaptSettings
from embae_plugin.methods.supervised import ImageSupervisedEngine
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from embae_plugin.training.schedule import seeded
from tests.methods.test_resume import stop_at
from tests.methods.tiny import same_weights, two_layer_model

PEOPLE = np.repeat(np.arange(7), 9)  # of the tiny target's images, in order


def engine_of(data, store, model, learn="heads", **settings):
    options = {"eps": 0.6, "min_samples": 3, "k1": 8, "k2": 3, "batch_size": 16, "lr": 1e-2,
               "precision": "float32", "seed": 3}
    kind = ImageSupervisedEngine if "identities" in settings else ImageClusterEngine
    return kind(data, model, learn, **{**options, **settings}, use_gpu=False, store=store)


def with_cameras(data, cameras):
    """The tiny target as if so many cameras had taken it, each three crops in a row."""
    given, camids = copy.copy(data), np.arange(63) // 3 % cameras
    names = tuple(f"door {n}" for n in camids)
    given.target_train = replace(data.target_train, camids=camids, cameras=names)
    return given


def camera_model(data, store, parts="trunk"):
    """A model with statistics by camera, as engines get it in a run."""
    model = two_layer_model()
    estimate(model, data.target_train, store, parts, seed=3)  # the engines' own
    if parts == "trunk":
        model.output = "joint"
    return model


def right_neighbours(model, data, store) -> float:
    """The share of crops whose nearest of another camera shows the same person."""
    target = data.target_train
    x = embed_records(model.eval(), store, target, "t", keep=False)
    distance = torch.cdist(x, x)
    camids = torch.from_numpy(target.camids)
    distance[camids[:, None] == camids] = torch.inf
    return float(np.mean(PEOPLE[distance.argmin(1).numpy()] == PEOPLE))


# --- learning -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learn", "parts"), [("heads", ""), ("heads", "heads"), ("heads", "trunk"), ("trunk", ""),
                         ("trunk", "trunk")]
)
def test_rounds_learn_their_clusters(data, store, tmp_path, learn, parts, caplog):
    model = camera_model(data, store, parts) if parts else two_layer_model()
    before = copy.deepcopy(model)
    engine = engine_of(data, store, model, learn, steps=8)
    first = right_neighbours(model, data, store)
    with caplog.at_level(logging.INFO):
        history = engine.run(tmp_path, max_epoch=3)
    rows = [row for row in history if row["phase"] == "rounds"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    twin = engine_of(data, store, copy.deepcopy(before), learn, identities=PEOPLE, steps=8,
                     batch_size=28, lr=2e-3)
    losses = [row["loss"] for row in twin.run(tmp_path / "same labels", 3) if "loss" in row]
    assert losses[2] < losses[0]  # of clusters found anew losses differ with their number
    assert all(9 <= row["kept"] <= 63 and row["clusters"] >= 2 for row in rows)
    assert all(1 <= row["cameras"] <= 3 for row in rows)
    assert f"clusters-{learn}, round 1: {rows[0]['kept']:.0f} of 63 images in" in caplog.text
    assert right_neighbours(model, data, store) >= first
    assert not same_weights(model.trunk if learn == "trunk" else model.f_emb,
                            before.trunk if learn == "trunk" else before.f_emb)
    untouched = {"heads": ("trunk", "f_nui", "f_dec"), "trunk": ("f_emb", "f_nui", "f_dec")}
    for part in untouched[learn]:
        assert same_weights(getattr(model, part), getattr(before, part)), part
    assert model.output == ("h" if learn == "trunk" else before.output)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    assert 0 <= engine.scores()["market"].rank1 <= 1
    assert load_checkpoint(tmp_path / engine.stage / "last.pth")["spec"] == model.spec()


def test_the_trunks_cameras_are_estimated_again_behind_the_rounds(data, store, tmp_path):
    model = camera_model(data, store)
    engine = engine_of(data, store, model, "trunk", steps=2)
    history = engine.run(tmp_path, max_epoch=1)
    assert [row["phase"] for row in history] == ["rounds", "statistics"]
    learned = copy.deepcopy(model)
    estimate(learned, data.target_train, store, "trunk", seed=3)
    assert same_weights(learned, model)


def test_each_round_clusters_the_weights_that_the_last_has_left(data, store):
    model = two_layer_model()
    rounds = engine_of(data, store, model, steps=3).phases(2)[0]
    rounds.start()
    seen = []
    for epoch in range(2):
        rounds.start_epoch(epoch)
        seen.append(rounds.centres.clone())
        # Centres begin as the clusters' means of the embeddings of the moment.
        x = embed_records(model.eval(), store, data.target_train, "t")
        means = torch.stack([x[rounds.labels == c].mean(0) for c in range(len(rounds.centres))])
        torch.testing.assert_close(rounds.centres, F.normalize(means, dim=1))
        model.f_emb.train()
        for step in range(3):
            rounds.step(epoch, step)
        kept = rounds.labels.clone()
        rounds.start_epoch(epoch)  # again: the same round is not clustered twice
        assert torch.equal(kept, rounds.labels)
    assert seen[0].shape != seen[1].shape or not torch.allclose(seen[0], seen[1])


def test_batches_hold_images_of_clusters_in_equal_shares(data, store):
    rounds = engine_of(data, store, two_layer_model(), steps=5, batch_size=9, num_instances=3
                       ).phases(2)[0]
    rounds.start()
    rounds.start_epoch(0)
    plan = rounds.plan
    assert plan.shape == (5, 9)
    for labels in rounds.labels[plan]:
        assert (labels >= 0).all() and labels.unique(return_counts=True)[1].tolist() == [3, 3, 3]
    rounds.start_epoch(0)
    assert torch.equal(plan, rounds.plan)
    assert data.target_train.paths[int(plan[2, 0])] in rounds.describe(0, 2)
    assert engine_of(data, store, two_layer_model()).phases(1)[0].steps == 63 // 16


@pytest.mark.parametrize(
    ("learn", "parts", "cameras", "by_camera"),
    [
        ("trunk", "trunk", 3, False),  # few: the batches are what they always were
        ("trunk", "trunk", 12, True),
        ("heads", "heads", 12, True),
        ("trunk", "", 12, False),  # what learns is not normalised by camera
        ("heads", "trunk", 12, False),
    ],
)
def test_batches_keep_to_few_of_many_cameras(data, store, learn, parts, cameras, by_camera):
    given = data if cameras == 3 else with_cameras(data, cameras)
    model = camera_model(given, store, parts) if parts else two_layer_model()
    rounds = engine_of(given, store, model, learn, identities=PEOPLE, steps=7).phases(1)[0]
    rounds.start()
    rounds.start_epoch(0)
    generator = seeded(3, rounds.engine.stage, 0)
    if by_camera:
        expected = camera_batches(PEOPLE, given.target_train.camids, 4, 4, 7, generator)
    else:
        expected = identity_batches(PEOPLE, np.zeros_like(PEOPLE), 4, 4, 7, generator)
    assert torch.equal(rounds.plan, expected)
    if learn == "trunk":
        assert torch.isfinite(rounds.step(0, 0)["loss"])


@pytest.mark.parametrize(
    ("learn", "parts", "cameras", "renewed"),
    [("trunk", "trunk", 8, False), ("trunk", "trunk", 12, True), ("heads", "heads", 12, True),
     ("trunk", "", 12, False)],
)
def test_statistics_of_many_cameras_are_estimated_again_before_each_clustering(
    data, store, learn, parts, cameras, renewed
):
    given = with_cameras(data, cameras)
    model = camera_model(given, store, parts) if parts else two_layer_model()
    rounds = engine_of(given, store, model, learn, identities=PEOPLE, steps=3).phases(2)[0]
    rounds.start()
    before = copy.deepcopy(model)
    rounds.start_epoch(0)
    assert same_weights(model, before)
    for step in range(3):
        rounds.step(0, step)
    learned = copy.deepcopy(model)
    rounds.start_epoch(1)
    assert model.f_emb.training == (learn == "heads") and model.trunk.training == (learn == "trunk")
    assert same_weights(model, learned) != renewed
    if renewed:
        estimate(learned, given.target_train, store, parts, seed=3)
        assert same_weights(model, learned)
    again = copy.deepcopy(model)
    rounds.start_epoch(1)  # as after a resume within the round
    assert same_weights(model, again)


def test_centres_move_by_hand(data, store):
    rounds = engine_of(data, store, two_layer_model(), keep=0.25).phases(1)[0]
    rounds.centres = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    # Cluster 1 is seen twice, at (1, 0) and (0, 1), whose mean of length 1 is (√½, √½); cluster 2
    # once, at (0, 1); cluster 0 not at all.
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    rounds.move_centres(x, torch.tensor([1, 2, 1]))
    root = 0.5**0.5
    expected = torch.tensor([
        [1.0, 0.0],
        [0.75 * root, 0.25 + 0.75 * root],
        [0.25 * 0.6, 0.25 * 0.8 + 0.75],
    ])
    torch.testing.assert_close(rounds.centres, F.normalize(expected, dim=1))


def test_the_loss_is_the_cross_entropy_over_centres(data, store):
    model = two_layer_model()
    rounds = engine_of(data, store, model, temperature=0.1, lr=1e-9).phases(1)[0]
    rounds.start()
    rounds.start_epoch(0)
    centres, index = rounds.centres.clone(), rounds.plan[0]
    model.f_emb.eval()  # statistics that do not depend on the batch
    found = rounds.step(0, 0)
    h = store.features(model.trunk, data.target_train, "t")[index]
    views = F.normalize(model.f_emb(h.flatten(0, 1)), dim=1).view(len(index), 2, -1)
    each = -F.log_softmax(views @ centres.T / 0.1, dim=2)
    each = each.gather(2, rounds.labels[index][:, None, None].expand(-1, 2, 1))[..., 0]
    # A view is drawn for each image: the mean lies between that of the better and of the worse.
    assert each.min(1).values.mean() <= found["loss"] <= each.max(1).values.mean()
    assert found["clusters"] == len(centres)


# --- bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learn", "parts", "cameras"),
    [("heads", "heads", 3), ("trunk", "trunk", 3), ("heads", "heads", 12), ("trunk", "trunk", 12)],
)
@pytest.mark.parametrize("stopped_at", [1, 3, 4, 5])
def test_ctrl_c_then_the_same_command_ends_with_the_same_bits(
    data, store, tmp_path, learn, parts, cameras, stopped_at
):
    """Two rounds of three steps: in the first, at its end, at the second's begin, within it."""
    data = data if cameras == 3 else with_cameras(data, cameras)
    whole, cut, resumed = (camera_model(data, store, parts) for _ in range(3))

    def make(model):
        return engine_of(data, store, model, learn, steps=3)

    history = make(whole).run(tmp_path / "whole", max_epoch=2)
    engine = make(cut)
    stop_at(engine, stopped_at)
    with pytest.raises(Interrupted):
        engine.run(tmp_path / "cut", max_epoch=2)
    assert make(resumed).run(tmp_path / "cut", max_epoch=2) == history
    assert same_weights(whole, resumed)


@pytest.mark.parametrize(("learn", "parts"), [("heads", "heads"), ("trunk", "trunk")])
def test_a_kill_between_rounds_costs_nothing_but_time(
    data, store, tmp_path, monkeypatch, learn, parts
):
    whole, cut, resumed = (camera_model(data, store, parts) for _ in range(3))

    def make(model):
        return engine_of(data, store, model, learn, steps=2)

    history = make(whole).run(tmp_path / "whole", max_epoch=3)
    engine, plan = make(cut), ImageClusterEngine.phases

    def phases(max_epoch):
        made = plan(engine, max_epoch)
        inner = made[0]._cluster

        def killed(epoch):
            if epoch == 2:
                raise MemoryError  # as good as a kill: nothing is saved on the way out
            inner(epoch)

        made[0]._cluster = killed
        return made

    engine.phases = phases
    with pytest.raises(MemoryError):
        engine.run(tmp_path / "cut", max_epoch=3, save_interval=0)
    assert load_checkpoint(tmp_path / "cut" / engine.stage / "last.pth")["position"] == [0, 2, 0]
    assert make(resumed).run(tmp_path / "cut", max_epoch=3, save_interval=0) == history
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("learn", ["heads", "trunk"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data, store, tmp_path, learn):
    runs = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        model = two_layer_model()
        torch.manual_seed(len(runs))  # the global state is not drawn from
        engine_of(data, store, model, learn, steps=2, seed=seed).run(tmp_path / name, max_epoch=1)
        runs.append(model)
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


@pytest.mark.parametrize("learn", ["heads", "trunk"])
def test_true_identities_in_the_targets_records_change_no_bit(data, store, tmp_path, learn):
    runs = []
    for name, pids in (("none", None), ("right", PEOPLE), ("wrong", PEOPLE[::-1].copy())):
        given = copy.copy(data)
        given.target_train = replace(data.target_train, pids=pids)
        runs.append(two_layer_model())
        engine_of(given, store, runs[-1], learn, steps=2).run(tmp_path / name, max_epoch=1)
    assert same_weights(runs[0], runs[1]) and same_weights(runs[0], runs[2])


def test_identities_stand_in_for_clusters_where_they_are_given(data, store, tmp_path):
    model, other = two_layer_model(), two_layer_model()
    engine = engine_of(data, store, model, identities=PEOPLE * 10 + 5, eps=1e-6)
    rounds = engine.phases(1)[0]
    rounds.start()
    rounds.start_epoch(0)
    assert rounds.labels.tolist() == PEOPLE.tolist()
    assert engine.identity()["labels"] == "true identities"
    plain = engine_of(data, store, two_layer_model())
    assert plain.identity()["labels"] == "clusters"
    engine_of(data, store, model, identities=PEOPLE).run(tmp_path / "a", max_epoch=1)
    engine_of(data, store, other, identities=PEOPLE[::-1].copy()).run(tmp_path / "b", max_epoch=1)
    assert not same_weights(model, other)


# --- errors ---------------------------------------------------------------------------------


def test_impossible_settings_are_refused(data, store):
    for settings, message in (
        ({"learn": "decoder"}, "learn: 'decoder' is not one of heads, trunk"),
        ({"batch_size": 4}, "batch_size is 4; it must be a multiple of"),
        ({"batch_size": 18}, "batch_size is 18; it must be a multiple of"),
        ({"num_instances": 0}, "num_instances is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be greater than 0"),
        ({"keep": 1.5}, "keep is 1.5; it must be at least 0 and at most 1"),
        ({"identities": PEOPLE[:5]}, "5 identities for 63 target images"),
        ({"steps": -1}, "steps"),
        ({"eps": 1.0}, "embae.clusters.eps is 1.0; it must be greater than 0 and below 1"),
        ({"transforms": ["color_jitter"]}, "color_jitter"),
        ({"precision": "half"}, "precision: 'half'"),
    ):
        with pytest.raises(ValueError, match=message):
            engine_of(data, store, two_layer_model(), **settings)
    with pytest.raises(ValueError, match="needs an EmbAE model"):
        engine_of(data, store, torch.nn.Linear(2, 2))
    without = copy.copy(data)
    one = data.target_train.rows(np.arange(1))
    for target, message in ((None, "no target images"), (one, "one target image")):
        without.target_train = target
        with pytest.raises(ValueError, match=message):
            engine_of(without, store, two_layer_model())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_samples": 60}, "round 1: 0 cluster.*among 63 images are"),
        ({"identities": np.zeros(63, dtype=np.int64)}, "round 1: 1 cluster.*a larger eps"),
    ],
)
def test_a_round_that_finds_nothing_to_learn_says_so(data, store, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        engine_of(data, store, two_layer_model(), **settings).run(tmp_path, max_epoch=1)


def bad_from(round_, monkeypatch, engine, found):
    """Makes an engine's clusters of a round, and of all after it, something else."""
    inner, count = engine.groups, iter(range(99))
    monkeypatch.setattr(engine, "groups", lambda x: found if next(count) >= round_ else inner(x))


ONE = PseudoLabels(np.zeros(63, dtype=np.int64))  # everybody in one cluster
HALF = PseudoLabels(np.where(np.arange(63) < 34, 0, 1 + np.arange(63) // 9))


@pytest.mark.parametrize(("learn", "found"), [("heads", ONE), ("trunk", ONE), ("trunk", HALF)])
def test_bad_clusters_of_a_later_round_bring_back_the_last_good_model(
    data, store, tmp_path, monkeypatch, caplog, learn, found
):
    guards = AdaptSettings(largest_cluster=0.5, least_kept=0.0)
    good = two_layer_model()
    rounds = {"rounds": 3, "trunk_rounds": 3, "steps": 2}
    engine_of(data, store, good, learn, **rounds).run(tmp_path / "good", max_epoch=3)
    model = two_layer_model()
    engine = engine_of(data, store, model, learn, **rounds)
    bad_from(2, monkeypatch, engine, found)
    outcome = engine.adapt(tmp_path / "bad", guards)
    assert "ends after epoch 2 of 3" in caplog.text
    assert outcome.words.startswith("1 rounds of pseudo-labels")
    assert outcome.numbers["rounds_left_out"] == 2
    assert not same_weights(model, good) and not same_weights(model, two_layer_model())
    # Done again it ends with the same bits, and nothing is learned in between.
    again = two_layer_model()
    second = engine_of(data, store, again, learn, **rounds)
    assert second.adapt(tmp_path / "bad", guards).words == outcome.words
    assert same_weights(model, again)


def test_the_weights_that_come_back_are_those_before_the_round_that_did_harm(
    data, store, tmp_path, monkeypatch
):
    one, model = two_layer_model(), two_layer_model()
    fixed = {"steps": 2, "final_lr": 1e-2}  # the same rate in a run of one round and of three
    engine_of(data, store, one, **fixed).run(tmp_path / "one", max_epoch=1)
    engine = engine_of(data, store, model, **fixed)
    bad_from(2, monkeypatch, engine, ONE)
    engine.run(tmp_path / "three", max_epoch=3)
    assert same_weights(one, model)


def test_clusters_that_are_not_people_change_no_weight(data, store, tmp_path, monkeypatch):
    model = two_layer_model()
    engine = engine_of(data, store, model)
    bad_from(0, monkeypatch, engine, HALF)
    outcome = engine.adapt(tmp_path, AdaptSettings(largest_cluster=0.5))
    assert "one cluster holds 34 of 63" in outcome.numbers["left_out"] and not outcome.words
    assert same_weights(model, two_layer_model())
    with pytest.raises(NotPeople):
        engine.run(tmp_path / "again", max_epoch=1)


def test_another_configuration_is_refused_by_name(data, store, tmp_path):
    engine_of(data, store, two_layer_model()).run(tmp_path, max_epoch=0)
    for settings, message in (
        ({"keep": 0.1}, "keep: 0.4 then, 0.1 now"),
        ({"k1": 9}, "k1: 8 then, 9 now"),
        ({"identities": PEOPLE}, "labels"),
    ):
        with pytest.raises(ValueError, match=message):
            engine_of(data, store, two_layer_model(), **settings).run(tmp_path, max_epoch=0)
