"""The epoch that a label-free rule keeps: its weights, on resume too, and the labels' absence."""

from __future__ import annotations

import logging
import signal

import pytest
import torch

from embae_plugin.data.records import ReIDData
from embae_plugin.methods import ImageAutoencoderEngine, ImageTransferEngine
from embae_plugin.methods import stopping as module
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.tiny import same_weights, tiny_model

EPOCHS = 5


def made(data, store, folder, stop, **settings):
    model = tiny_model()
    common = {"use_gpu": False, "seed": 3, "store": store}
    ImageAutoencoderEngine(data, model, "common", batch_size=20, **common).run(folder, max_epoch=1)
    return ImageTransferEngine(
        data, model, "fix", lr=1e-2, batch_size=16, stop=stop, **common, **settings
    )


def told(monkeypatch, values):
    """Makes the effective rank after each epoch what ``values`` say; returns the weights seen."""
    seen = []

    def measured(self, model, every):
        seen.append({name: value.clone() for name, value in model.f_emb.state_dict().items()})
        return {"effective_rank": values[len(seen) - 1]}

    monkeypatch.setattr(module.Watch, "_measured", measured)
    return seen


def same(state, found):
    return all(torch.equal(value, found[name]) for name, value in state.items())


@pytest.mark.parametrize(("values", "kept"), [([1, 4, 2, 3, 3], 2), ([1, 2, 3, 4, 5], 5),
                                             ([5, 5, 1, 1, 1], 1)])
def test_the_weights_of_the_epoch_with_the_highest_measure_are_kept(
    data, store, tmp_path, monkeypatch, values, kept
):
    seen = told(monkeypatch, [float(value) for value in values])
    engine = made(data, store, tmp_path, "effective_rank")
    history = engine.run(tmp_path, max_epoch=EPOCHS)
    assert len(seen) == EPOCHS and not same(seen[0], seen[4])
    assert same(seen[kept - 1], engine.model.f_emb.state_dict())
    assert history[-1]["kept_epoch"] == kept
    payload = load_checkpoint(tmp_path / "transfer-fix" / "last.pth")
    assert payload["done"]
    for name, value in seen[kept - 1].items():
        assert torch.equal(payload["model"][f"f_emb.{name}"], value)


def test_last_measures_nothing_unless_epochs_are_scored(data, store, tmp_path, monkeypatch):
    seen = told(monkeypatch, [1.0] * EPOCHS)
    history = made(data, store, tmp_path / "a", "last").run(tmp_path / "a", max_epoch=2)
    assert not seen and "effective_rank" not in history[-1]
    history = made(data, store, tmp_path / "b", "last").run(
        tmp_path / "b", max_epoch=2, eval_freq=2
    )
    assert len(seen) == 1 and history[-1]["effective_rank"] == 1.0
    assert "mAP" in history[-1] and "kept_epoch" not in history[-1]


@pytest.mark.parametrize("stopped_at", [5, 8, 14])
def test_stopped_and_resumed_keeps_the_same_epoch_and_bits(data, store, tmp_path, stopped_at):
    whole = made(data, store, tmp_path / "whole", "effective_rank")
    history = whole.run(tmp_path / "whole", max_epoch=EPOCHS)
    cut = made(data, store, tmp_path / "cut", "effective_rank")
    count, plan = stopped_at, cut.phases

    def phases(max_epoch):
        def step(epoch, number, inner):
            nonlocal count
            count -= 1
            if count == 0:
                signal.raise_signal(signal.SIGINT)
            return inner(epoch, number)

        parts = plan(max_epoch)
        for part in parts:
            part.step = lambda epoch, number, inner=part.step: step(epoch, number, inner)
        return parts

    cut.phases = phases
    with pytest.raises(Interrupted):
        cut.run(tmp_path / "cut", max_epoch=EPOCHS)
    again = made(data, store, tmp_path / "cut", "effective_rank")
    assert again.run(tmp_path / "cut", max_epoch=EPOCHS) == history
    assert same_weights(whole.model, again.model)
    assert 1 <= history[-1]["kept_epoch"] <= EPOCHS


def test_a_measure_that_one_camera_does_not_have_keeps_the_last_epoch(
    data, store, tmp_path, monkeypatch, caplog
):
    seen = told(monkeypatch, [float("nan")] * EPOCHS)
    engine = made(data, store, tmp_path, "mutual_neighbours")
    monkeypatch.setattr(
        module.Watch, "_measured",
        lambda self, model, every: seen.append(0) or {"mutual_neighbours": float("nan")},
    )
    with caplog.at_level(logging.WARNING):
        history = engine.run(tmp_path, max_epoch=3)
    assert history[-1]["kept_epoch"] == 3 and len(seen) == 3
    assert "mutual_neighbours cannot be measured on these crops" in caplog.text


def test_what_is_kept_depends_on_no_query_gallery_or_identity(data, store, tmp_path):
    first = made(data, store, tmp_path / "a", "mutual_neighbours")
    history = first.run(tmp_path / "a", max_epoch=3)
    bare = ReIDData(data.sources, data.source, data.target, data.target_train)
    second = made(bare, store, tmp_path / "b", "mutual_neighbours")
    assert second.run(tmp_path / "b", max_epoch=3) == history
    assert same_weights(first.model, second.model)


def test_another_rule_does_not_go_on_from_a_checkpoint(data, store, tmp_path):
    made(data, store, tmp_path, "effective_rank").run(tmp_path, max_epoch=1)
    with pytest.raises(ValueError, match="stop"):
        made(data, store, tmp_path, "flip_agreement").run(tmp_path, max_epoch=1)
    with pytest.raises(ValueError, match="stop: 'soon' is not one of last, effective_rank"):
        made(data, store, tmp_path, "soon")
