"""The adversarial autoencoder: its losses by hand, what it changes, and that it resumes exactly."""

from __future__ import annotations

import copy
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.methods import ImageAdversarialEngine
from embae_plugin.methods.adversarial import deception_loss, discrimination_loss, discriminator
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.schedule import seeded
from tests.methods.tiny import same_weights, two_layer_model

LOSSES = ("triplet", "reconstruction", "adversarial", "discriminator_z_id", "discriminator_z_nui")


class Cached:
    """A store of ready features: people well apart, cameras and views a little."""

    def input_spec(self):
        return InputSpec(32, 16, (0.5,) * 3, (0.5,) * 3)

    def features(self, trunk, records, label):
        rng = np.random.default_rng(0)
        people = rng.normal(0, 1, (11, 12))[records.pids]
        cameras = rng.normal(0, 0.7, (5, 12))[records.groups("camera").numpy()]
        views = rng.normal(0, 0.4, (len(records), 2, 12))
        features = people[:, None] + cameras[:, None] + views
        return torch.from_numpy(features.astype(np.float32))


@pytest.fixture
def store():
    return Cached()


def engine_of(data, store, model, **settings):
    options = {
        "batch_size": 15, "num_instances": 3, "discriminator_dim": 12, "lr": 1e-2, "final_lr": 1e-2,
    }
    return ImageAdversarialEngine(
        data, model, **{**options, **settings}, use_gpu=False, seed=3, store=store
    )


def codes_of(data, store, model):
    """z_id and z_nui of the sources' images."""
    h = store.features(model.trunk, data.source, "source")[:, 0]
    with torch.no_grad():
        return model.f_emb(h), model.f_nui(h, torch.zeros(len(h), dtype=torch.long))


# --- losses ---------------------------------------------------------------------------------


def test_discrimination_is_binary_cross_entropy():
    judge = nn.Linear(1, 1)
    with torch.no_grad():
        judge.weight.fill_(2.0)
        judge.bias.fill_(-1.0)
    prior, code = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.5]])
    bce = nn.BCEWithLogitsLoss()
    logits = judge(torch.cat([prior, code]))
    expected = bce(logits, torch.tensor([[1.0], [1.0], [0.0], [0.0]]))
    torch.testing.assert_close(discrimination_loss(judge, prior, code), expected)
    torch.testing.assert_close(deception_loss(judge, code), bce(judge(code), torch.ones(2, 1)))


def test_a_judge_that_cannot_tell_costs_ln_2():
    judge = nn.Linear(3, 1)
    nn.init.zeros_(judge.weight)
    nn.init.zeros_(judge.bias)
    x = torch.randn(5, 3, generator=seeded(0))
    assert discrimination_loss(judge, x, x + 1).item() == pytest.approx(math.log(2))
    assert deception_loss(judge, x).item() == pytest.approx(math.log(2))


def test_losses_stay_finite_for_a_judge_that_is_very_sure():
    judge = nn.Linear(1, 1)
    nn.init.constant_(judge.weight, 1e4)
    far = torch.full((2, 1), 1e4, requires_grad=True)
    loss = discrimination_loss(judge, -far, far) + deception_loss(judge, -far)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(far.grad).all()


def test_discriminators_depend_on_their_generator_alone():
    one, two = (discriminator(4, 6, seeded("d")) for _ in range(2))
    assert same_weights(one, two) and one(torch.zeros(7, 4)).shape == (7, 1)
    assert not same_weights(one, discriminator(4, 6, seeded("e")))


# --- the engine -----------------------------------------------------------------------------


def test_it_learns_all_heads_logs_each_loss_and_leaves_the_trunk(data, store, tmp_path):
    model = two_layer_model()
    before = copy.deepcopy(model)
    history = engine_of(data, store, model).run(tmp_path, max_epoch=5)
    assert same_weights(model.trunk, before.trunk)
    for part in ("f_emb", "f_nui", "f_dec"):
        assert not same_weights(getattr(model, part), getattr(before, part)), part
    assert history[-1]["reconstruction"] < history[0]["reconstruction"]
    for row in history:
        assert set(LOSSES) <= set(row)
        parts = row["triplet"] + row["reconstruction"] + row["adversarial"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
    assert history[0]["discriminator_z_id"] == pytest.approx(math.log(2), abs=0.15)


def test_codes_are_drawn_to_their_priors(data, store, tmp_path):
    """Without the other losses, what is left is the prior's deviation."""
    model = two_layer_model()
    engine = engine_of(data, store, model, triplet_weight=0.0, reconstruction_weight=0.0,
                       prior_std=2.0, final_lr=1e-3, discriminator_dim=32)
    engine.phases(1)  # f_nui is made afresh, by the seed
    before = [code.std(0).mean().item() for code in codes_of(data, store, model.eval())]
    engine.run(tmp_path, max_epoch=20)
    after = [code.std(0).mean().item() for code in codes_of(data, store, model)]
    for start, end in zip(before, after, strict=True):
        assert start < 1 and 1.6 < end < 2.6


def test_the_triplet_loss_alone_leaves_what_only_the_others_reach(data, store, tmp_path):
    model = two_layer_model()
    engine = engine_of(data, store, model, reconstruction_weight=0.0, adversarial_weight=0.0)
    engine.phases(1)
    before = copy.deepcopy(model)
    history = engine.run(tmp_path, max_epoch=5)
    assert history[-1]["triplet"] < history[0]["triplet"] == pytest.approx(history[0]["loss"])
    assert not same_weights(model.f_emb, before.f_emb)
    assert same_weights(model.f_dec, before.f_dec)
    learned = [(a, b) for (_, a), (_, b) in zip(
        model.f_nui.named_parameters(), before.f_nui.named_parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b in learned)


def test_the_adversarial_loss_costs_embedding_quality(data, store, tmp_path):
    """The paper's observation, on the triplet loss of the training images."""
    ends = {}
    for weight in (0.0, 20.0):
        engine = engine_of(data, store, two_layer_model(), adversarial_weight=weight)
        ends[weight] = engine.run(tmp_path / str(weight), max_epoch=16)[-1]["triplet"]
    assert ends[20.0] > 1.1 * ends[0.0]


@pytest.mark.parametrize("stopped_at", [1, 4, 9])
def test_ctrl_c_then_the_same_command_ends_with_the_same_bits(data, store, tmp_path, stopped_at):
    whole, resumed = two_layer_model(), two_layer_model()
    history = engine_of(data, store, whole).run(tmp_path / "whole", max_epoch=3)
    engine, count = engine_of(data, store, two_layer_model()), 0
    plan = engine.phases

    def phases(max_epoch):
        (phase,) = plan(max_epoch)
        step = phase.step

        def counted(*where):
            nonlocal count
            count += 1
            if count == stopped_at:
                signal.raise_signal(signal.SIGINT)
            return step(*where)

        phase.step = counted
        return [phase]

    engine.phases = phases
    with pytest.raises(Interrupted):
        engine.run(tmp_path / "cut", max_epoch=3)
    assert engine_of(data, store, resumed).run(tmp_path / "cut", max_epoch=3) == history
    assert same_weights(whole, resumed)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data, store, tmp_path):
    runs = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        runs.append(two_layer_model())
        torch.manual_seed(len(runs))  # the global state is not drawn from
        ImageAdversarialEngine(
            data, runs[-1], batch_size=15, num_instances=3, use_gpu=False, seed=seed, store=store
        ).run(tmp_path / name, max_epoch=2)
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0].f_emb, runs[2].f_emb)


def test_the_target_is_not_read(data, store, tmp_path):
    runs = []
    for name, target in (("with", data.target_train), ("without", None)):
        given = copy.copy(data)
        given.target_train = target
        runs.append(two_layer_model())
        engine_of(given, store, runs[-1]).run(tmp_path / name, max_epoch=1)
    assert same_weights(*runs)


def test_impossible_settings_are_refused(data, store):
    for settings, message in (
        ({"batch_size": 16}, r"\(K = 3\) does not divide"),
        ({"prior_std": 0.0}, "prior_std is 0.0"),
        ({"triplet_weight": -1.0}, "triplet_weight is -1.0; it must be at least 0"),
        ({"adversarial_weight": math.inf}, "adversarial_weight is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            engine_of(data, store, two_layer_model(), **settings)
    with pytest.raises(ValueError, match="identities of one dataset"):
        engine_of(data, store, two_layer_model(), batch_size=60).phases(1)
    blank = copy.copy(data)
    blank.source = replace(data.source, pids=None)
    with pytest.raises(ValueError, match="carry none"):
        engine_of(blank, store, two_layer_model()).phases(1)
    with pytest.raises(ValueError, match="needs an EmbAE model"):
        engine_of(data, store, nn.Linear(2, 2))


def test_a_failing_step_is_described_by_its_images(data, store):
    (phase,) = engine_of(data, store, two_layer_model()).phases(1)
    phase.start()
    phase.start_epoch(0)
    assert phase.plan.shape == (len(data.source) // 15, 15)
    assert data.source.paths[int(phase.plan[1, 0])] in phase.describe(0, 1)
    # P×K: K images each of P people of one dataset, side by side.
    pids = data.source.pids[phase.plan.numpy()].reshape(-1, 5, 3)
    assert (pids == pids[:, :, :1]).all() and all(len(np.unique(row)) == 5 for row in pids[:, :, 0])


def test_torchreid_has_the_engine():
    assert bridge.library.engines.ImageAdversarialEngine is ImageAdversarialEngine
