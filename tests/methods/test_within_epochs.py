"""Checkpoints within epochs: from any of them the same bits, and little time for writing them."""

from __future__ import annotations

import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from embae_plugin.methods import ImageAutoencoderEngine, ImageIdentificationEngine
from embae_plugin.training import loop
from embae_plugin.training.loop import Loop, LoopOptions
from embae_plugin.training.phase import OneStep
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods import (
    test_adversarial,
    test_camera_embedding,
    test_clusters,
    test_distill,
    test_pul,
    test_resume,
)
from tests.methods.tiny import same_weights, tiny_model, two_layer_model


def clusters(learn):
    def make(data, store):
        model = test_clusters.camera_model(data, store, learn)
        return test_clusters.engine_of(data, store, model, learn, steps=4)

    return make


def softmax(data, store):
    return ImageIdentificationEngine(data, two_layer_model(), use_gpu=False, seed=3, store=store,
                                     precision="float32")


def reconstruction(data, store):
    return ImageAutoencoderEngine(data, tiny_model(), "camera", use_gpu=False, seed=3, store=store,
                                  batch_size=10)


KINDS = {
    "embedding": lambda d, s: test_resume.make("embedding", d, s, tiny_model()),
    "embedding by camera": test_camera_embedding.engine,
    "reconstruction": reconstruction,
    "nuisance, then embedding": lambda d, s: test_resume.make("cam", d, s, tiny_model()),
    "clusters, heads": clusters("heads"),
    "clusters, trunk": clusters("trunk"),
    "softmax": softmax,
    "pul": lambda d, s: test_pul.engine_of(d, s, two_layer_model(), batch_size=8),
    "pul, heads": lambda d, s: test_pul.engine_of(d, s, two_layer_model(), batch_size=8,
                                                  heads_only=True),
    "adversarial": lambda d, s: test_adversarial.engine_of(d, s, two_layer_model()),
    "distill": lambda d, s: test_distill.engine_of(d, s, test_distill.teacher_of(d, s)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_from_any_checkpoint_it_ends_with_the_same_bits(
    data, store, tmp_path, monkeypatch, kind
):
    """A long epoch in which each step is due to be saved, then one run from each of those."""
    whole, spoken = KINDS[kind](data, store), KINDS[kind](data, store)
    history = whole.run(tmp_path / "whole", max_epoch=1, save_interval=1e9)
    kept = []

    def keep(self, done=False):
        true(self, done)
        if not done:
            kept.append(tmp_path / f"kept {len(kept)}" / self.stage / "last.pth")
            kept[-1].parent.mkdir(parents=True)
            shutil.copy(self.options.checkpoint, kept[-1])

    true = Loop.save
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", keep)
        patch.setattr(Loop, "_due", lambda self: True)
        assert spoken.run(tmp_path / "spoken", max_epoch=1) == history
    assert same_weights(whole.model, spoken.model)
    within = [path for path in kept if load_checkpoint(path)["position"][2] > 0]
    assert len(within) >= 2
    for path in kept:
        torch.manual_seed(len(str(path)))  # nothing is drawn from the global state
        resumed = KINDS[kind](data, store)
        assert resumed.run(path.parents[1], max_epoch=1, save_interval=1e9) == history
        assert same_weights(whole.model, resumed.model), path


class Steps(OneStep):
    """Steps of a second each, by a clock of its own."""

    def __init__(self, clock, epochs, steps):
        self.clock, self.epochs, self.steps = clock, epochs, steps

    def step(self, epoch, step):
        self.clock[0] += 1.0
        return {"loss": torch.zeros(())}


@pytest.mark.parametrize("epochs, steps", [(1, 20_000), (400, 50)])
@pytest.mark.parametrize("seconds", [0.01, 0.25, 7.0])
def test_writing_checkpoints_takes_less_than_a_hundredth_of_the_time(
    tmp_path, monkeypatch, epochs, steps, seconds
):
    """The first is written before anybody knows how long that takes, and the last at the end."""
    clock, saved = [0.0], []

    def slow(path, payload):
        saved.append(clock[0])
        clock[0] += seconds

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "save_checkpoint", slow)
    options = LoopOptions(checkpoint=tmp_path / "last.pth")
    Loop("x", nn.Linear(1, 1), [Steps(clock, epochs, steps)], options).run()
    gaps = [later - earlier - seconds for earlier, later in pairwise(saved[:-1])]
    assert len(gaps) >= 25 and min(gaps) > max(30, 100 * seconds) - 1e-6
    assert seconds * (len(saved) - 2) < clock[0] / 100
    assert max(gaps) < max(30, 100 * seconds) + 1.001, "and as often as that allows"
