"""A plain network learns the embeddings that a model gives crops whose cameras are named."""

from __future__ import annotations

import copy

import pytest
import torch

from embae_plugin.embedder import embed_records
from embae_plugin.methods import ImageDistillEngine
from embae_plugin.methods.camera_statistics import estimate
from embae_plugin.training.loop import Interrupted
from tests.methods.test_resume import stop_at
from tests.methods.tiny import same_weights, two_layer_model


def teacher_of(data, store):
    model = two_layer_model()
    estimate(model, data.target_train, store, "trunk")
    model.output = "h"
    return model.eval()


def engine_of(data, store, teacher, **settings):
    options = {"batch_size": 16, "lr": 1e-3, "final_lr": 1e-4, "precision": "float32",
               "max_epoch": 20, **settings}
    student = ImageDistillEngine.prepared(teacher)
    return ImageDistillEngine(data, student, teacher=teacher, store=store, seed=3, use_gpu=False,
                              **options)


def distance(model, teacher, data, store) -> float:
    """Mean squared distance to the teacher's embeddings, of crops whose cameras nobody names."""
    wanted = embed_records(teacher, store, data.target_train, "t", keep=False)
    found = embed_records(model.eval(), store, data.target_train.unnamed(), "t", keep=False)
    return float((wanted - found).square().sum(1).mean())


def test_it_comes_nearer_to_the_named_embeddings_and_knows_no_camera(data, store, tmp_path):
    teacher = teacher_of(data, store)
    before = copy.deepcopy(teacher)
    engine = engine_of(data, store, teacher)
    first = distance(engine.model, teacher, data, store)
    history = engine.run(tmp_path)
    assert history[-1]["loss"] < history[0]["loss"] and len(history) == 20
    assert distance(engine.model, teacher, data, store) < 0.7 * first
    assert not engine.model.camera_names and engine.model.guess is None
    assert same_weights(before, teacher)


def test_the_loss_by_hand(data, store, tmp_path):
    teacher = teacher_of(data, store)
    engine = engine_of(data, store, teacher, similarity_weight=2.0)
    (phase,) = engine.phases(1)
    phase.start()
    phase.start_epoch(0)
    engine.model.eval()  # statistics that do not depend on the batch
    rows = phase.plan[0]
    batch = phase_batch(phase, rows)
    found = phase.loss(batch)
    images = phase.augment(phase.bank.batch(rows), phase.generator(0, 0))
    x = torch.nn.functional.normalize(engine.model.trunk(images), dim=1).double()
    t = phase.wanted[rows].double()
    apart = (1 - (x * t).sum(1)).mean()
    expected = apart + 2 * (x @ x.T - t @ t.T).square().mean()
    torch.testing.assert_close(found["loss"].double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["distance"].double(), apart, rtol=1e-4, atol=1e-6)


def phase_batch(phase, rows):
    from embae_plugin.training.phase import Batch

    return Batch(rows, phase.generator(0, 0), 0)


@pytest.mark.parametrize("stopped_at", [1, 4, 5])
def test_ctrl_c_then_the_same_command_ends_with_the_same_bits(data, store, tmp_path, stopped_at):
    teacher = teacher_of(data, store)
    whole = engine_of(data, store, teacher, max_epoch=2)
    whole.run(tmp_path / "whole")
    cut = engine_of(data, store, teacher, max_epoch=2)
    stop_at(cut, stopped_at)
    with pytest.raises(Interrupted):
        cut.run(tmp_path / "cut")
    again = engine_of(data, store, teacher, max_epoch=2)
    again.run(tmp_path / "cut")
    assert same_weights(whole.model, again.model)


def test_another_teacher_is_refused(data, store, tmp_path):
    teacher = teacher_of(data, store)
    engine_of(data, store, teacher).run(tmp_path, max_epoch=0)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        next(other.f_emb.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="teacher"):
        engine_of(data, store, other).run(tmp_path, max_epoch=0)
