"""A run that is stopped and started again ends with the bits of one that never stopped."""

from __future__ import annotations

import copy
import signal

import numpy as np
import pytest
import torch

from embae_plugin.data import image_bank
from embae_plugin.methods import ImageAutoencoderEngine, ImageEmbeddingEngine, ImageTransferEngine
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.tiny import same_weights, tiny_model, tiny_store


def make(stage, data, store, model):
    common = {"use_gpu": False, "seed": 3, "store": store}
    if stage == "embedding":
        return ImageEmbeddingEngine(
            data, model, batch_size=12, num_instances=3, transforms=["random_flip"],
            precision="float32", **common,  # bfloat16 on a CPU is not the same from run to run
        )
    if stage == "autoencoder":
        return ImageAutoencoderEngine(data, model, "camera", batch_size=20, **common)
    return ImageTransferEngine(
        data, model, stage, nuisance_epoch=3, nuisance_lr=1e-2, batch_size=16, **common
    )


def stop_at(engine, count):
    """Makes the engine's ``count``-th step end with Ctrl-C."""
    plan = engine.phases

    def phases(max_epoch):
        made = plan(max_epoch)
        for phase in made:
            def step(epoch, number, inner=phase.step):
                nonlocal count
                count -= 1
                if count == 0:
                    signal.raise_signal(signal.SIGINT)
                return inner(epoch, number)

            phase.step = step
        return made

    engine.phases = phases


@pytest.mark.parametrize("stage", ["embedding", "autoencoder", "all", "cam"])
@pytest.mark.parametrize("stopped_at", [1, 4, 9])
def test_ctrl_c_then_the_same_command_ends_with_the_same_bits(
    data, store, tmp_path, stage, stopped_at
):
    whole = tiny_model()
    history = make(stage, data, store, whole).run(tmp_path / "whole", max_epoch=3)
    model = tiny_model()
    engine = make(stage, data, store, model)
    stop_at(engine, stopped_at)
    with pytest.raises(Interrupted, match="the same command goes on"):
        engine.run(tmp_path / "cut", max_epoch=3)
    fresh = tiny_model()
    resumed = make(stage, data, store, fresh).run(tmp_path / "cut", max_epoch=3)
    assert same_weights(whole, fresh)
    assert resumed == history


def test_ctrl_c_while_images_are_decoded_stops_at_once(data, tmp_path, monkeypatch):
    decoded = []

    def decode(path, height, width, *_):
        decoded.append(path)
        signal.raise_signal(signal.SIGINT)
        return np.zeros((height, width, 3), dtype=np.uint8)

    monkeypatch.setattr(image_bank, "decode", decode)
    # A shell starts background jobs with Ctrl-C ignored; Python then installs no handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            make("embedding", data, tiny_store(), tiny_model()).run(tmp_path, max_epoch=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(caught.value, Interrupted) and not list(tmp_path.rglob("last.pth"))


def test_a_finished_stage_is_not_done_again(data, store, tmp_path):
    first = tiny_model()
    history = make("embedding", data, store, first).run(tmp_path, max_epoch=2)
    again = tiny_model()
    engine = make("embedding", data, store, again)
    stop_at(engine, 1)  # a single step would raise
    assert engine.run(tmp_path, max_epoch=2) == history
    assert same_weights(first, again)


def test_another_configuration_is_refused_by_name(data, store, tmp_path):
    make("embedding", data, store, tiny_model()).run(tmp_path, max_epoch=1)
    engine = make("embedding", data, store, tiny_model())
    engine.loss.margin = 0.5
    with pytest.raises(ValueError, match=r"loss: .*soft.* then, .*0\.5.* now"):
        engine.run(tmp_path, max_epoch=1)


def test_a_damaged_checkpoint_is_named(data, store, tmp_path):
    make("embedding", data, store, tiny_model()).run(tmp_path, max_epoch=1)
    path = tmp_path / "embedding" / "last.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pth is cut short"):
        make("embedding", data, store, tiny_model()).run(tmp_path, max_epoch=1)


def test_a_loss_that_turns_nan_stops_at_the_last_good_checkpoint(data, store, tmp_path):
    model = tiny_model()
    engine = make("embedding", data, store, model)
    inner, count = engine.loss, 0

    def poisoned(z_id, pids):
        nonlocal count
        count += 1
        return inner(z_id, pids) * (float("nan") if count > 9 else 1.0)

    engine.loss = poisoned
    engine.identity = lambda: {}
    with pytest.raises(FloatingPointError, match=r"loss is nan .*last good state.*c\d_\d\.png"):
        engine.run(tmp_path, max_epoch=5, save_interval=0)
    kept = load_checkpoint(tmp_path / "embedding" / "last.pth")
    assert all(bool(torch.isfinite(value).all()) for value in kept["model"].values())


def test_checkpoints_between_epochs_are_those_of_the_epoch(data, store, tmp_path):
    model = tiny_model()
    engine = make("cam", data, store, model)
    engine.run(tmp_path, max_epoch=2, save_interval=0)
    payload = load_checkpoint(tmp_path / "transfer-cam" / "last.pth")
    assert payload["done"] and payload["spec"] == model.spec()
    restored = copy.deepcopy(tiny_model())
    restored.reset_nuisance(3, None)
    restored.load_state_dict(payload["model"])
    assert same_weights(restored, model)
