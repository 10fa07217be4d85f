"""Stage 1 with each source camera's images normalised by themselves."""

from __future__ import annotations

import pytest
import torch
import torchreid

from embae_plugin.data.augment import normalise
from embae_plugin.methods import ImageEmbeddingEngine
from embae_plugin.models import camera_batches
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from tests.methods.test_resume import stop_at
from tests.methods.tiny import same_weights, tiny_store, two_layer_model
from tests.zoo_files import write_market1501

SETTINGS = {
    "lr": 1e-2, "batch_size": 12, "num_instances": 3, "transforms": ["random_flip"],
    "precision": "float32", "use_gpu": False, "seed": 3,
}


def engine(data, store, model: EmbAE | None = None, **more) -> ImageEmbeddingEngine:
    options = {**SETTINGS, "camera_norm": True, "store": store, **more}
    return ImageEmbeddingEngine(data, model or two_layer_model(), **options)


def sizes_seen(made: ImageEmbeddingEngine, monkeypatch) -> list[list[int]]:
    """How each batch of the engine is split, written down as it trains."""
    seen: list[list[int]] = []
    forward = camera_batches._by_camera

    def noting(layer, x):
        if layer.training:
            seen.append(list(camera_batches._sizes.get()))
        return forward(layer, x)

    monkeypatch.setattr(camera_batches, "_by_camera", noting)
    return seen


def test_batches_are_split_by_the_cameras_of_their_dataset(data, store, tmp_path, monkeypatch):
    made = engine(data, store)
    seen = sizes_seen(made, monkeypatch)
    history = made.run(tmp_path, max_epoch=6)
    assert history[-2]["loss"] < history[0]["loss"]
    assert all(sum(sizes) == 12 for sizes in seen)
    assert {len(sizes) for sizes in seen} >= {2, 3}  # the cameras of the two sources


def test_it_learns_something_else_and_the_same_each_time(data, store, tmp_path):
    plain, first, second = (
        engine(data, store, camera_norm=camera_norm) for camera_norm in (False, True, True)
    )
    for number, made in enumerate((plain, first, second)):
        made.run(tmp_path / str(number), max_epoch=2)
    assert same_weights(first.model, second.model)
    assert not torch.equal(plain.model.trunk.net[3].weight, first.model.trunk.net[3].weight)


def test_a_light_that_one_camera_adds_teaches_the_trunk_nothing(data, store, tmp_path):
    """In a trunk that begins with batch norm, scaling all of a camera's pixels changes no loss."""

    def trained(folder, gain: float) -> list[float]:
        made = engine(data, store, transforms=[])
        net = made.model.trunk.net
        net[1] = torch.nn.BatchNorm2d(8, eps=1e-12)
        net[0].padding = (0, 0)
        bank = made.store.images(data.source, "source")
        first = data.source.groups("camera") == 0
        inner = bank.batch

        def batch(index):
            images = inner(index).float()
            shade = torch.where(first[index], gain, 1.0).view(-1, 1, 1, 1)
            return 127.5 + (images - 127.5) * shade  # grey stays grey in either light

        bank.batch = batch
        made.store.images = lambda *_: bank
        return [row["loss"] for row in made.run(folder, max_epoch=1)]

    assert trained(tmp_path / "a", 1.0) == pytest.approx(trained(tmp_path / "b", 0.5), rel=1e-3)


def test_the_checkpoint_is_an_ordinary_model_with_the_sources_statistics(data, store, tmp_path):
    made = engine(data, store, transforms=[])
    made.run(tmp_path, max_epoch=2)
    payload = load_checkpoint(tmp_path / "embedding" / "last.pth")
    assert not any("forward" in vars(m) for m in made.model.modules())
    assert "camera_parts" not in payload["spec"] and payload["identity"]["camera_norm"] is True
    bank = store.images(data.source, "source")
    net = made.model.trunk.net
    with torch.no_grad():
        x = normalise(bank.batch(torch.arange(len(data.source))), store.mean, store.std)
        maps = net[0](x).double()
    # The tool's half of the views is flipped, which moves the moments of a strided convolution.
    torch.testing.assert_close(
        net[1].running_mean.double(), maps.mean((0, 2, 3)), rtol=0.05, atol=0.05
    )
    ratio = net[1].running_var.double() / maps.var((0, 2, 3))
    assert (ratio > 0.8).all() and (ratio < 1.25).all()


@pytest.mark.parametrize("stopped_at", [2, 7])
def test_stopped_and_started_again_it_ends_with_the_same_bits(data, store, tmp_path, stopped_at):
    whole = engine(data, store)
    history = whole.run(tmp_path / "whole", max_epoch=3)
    cut = engine(data, store)
    stop_at(cut, stopped_at)
    with pytest.raises(Interrupted):
        cut.run(tmp_path / "cut", max_epoch=3)
    again = engine(data, store)
    assert again.run(tmp_path / "cut", max_epoch=3) == history
    assert same_weights(again.model, whole.model)
    done = engine(data, store)  # of a finished stage nothing is trained, and nothing replaced
    assert done.run(tmp_path / "cut", max_epoch=3) == history
    assert same_weights(done.model, whole.model)


def test_going_on_without_it_is_refused(data, store, tmp_path):
    engine(data, store).run(tmp_path, max_epoch=1)
    with pytest.raises(ValueError, match="camera_norm"):
        engine(data, store, camera_norm=False).run(tmp_path, max_epoch=1)


def test_torchreids_loader_can_feed_it(tmp_path, monkeypatch):
    root = tmp_path / "reid-data"
    write_market1501(root, train_ids=6, test_ids=2, shots=3)
    torch.manual_seed(1)
    manager = torchreid.data.ImageDataManager(
        root=str(root), sources="market1501", height=32, width=16, workers=0, use_gpu=False,
        batch_size_train=12, num_instances=3, train_sampler="RandomDatasetIdentitySampler",
        transforms=["random_flip", "color_jitter"],
    )
    made = engine(manager, tiny_store(), transforms=["random_flip", "color_jitter"])
    seen = sizes_seen(made, monkeypatch)
    history = made.run(tmp_path / "log", max_epoch=2)
    assert [row["phase"] for row in history] == ["embedding", "embedding", "statistics"]
    assert all(sum(sizes) == 12 for sizes in seen) and max(map(len, seen)) > 1
