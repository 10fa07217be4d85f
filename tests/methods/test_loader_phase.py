"""Stage 1 on torchreid's own loader, for transforms that need a decoded picture."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch
import torchreid

from embae_plugin.data.records import ReIDData
from embae_plugin.methods import ImageEmbeddingEngine
from embae_plugin.training.loop import Interrupted
from tests.methods.tiny import same_weights, tiny_store, two_layer_model
from tests.zoo_files import write_market1501


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reid-data")
    write_market1501(root, train_ids=6, test_ids=2, shots=3)
    return root


def engine(root, sampler="RandomDatasetIdentitySampler", batch_size=6):
    torch.manual_seed(1)
    manager = torchreid.data.ImageDataManager(
        root=str(root), sources="market1501", height=32, width=16, workers=0, use_gpu=False,
        batch_size_train=batch_size, num_instances=2, train_sampler=sampler,
        transforms=["random_flip", "color_jitter"],
    )
    return ImageEmbeddingEngine(
        manager, two_layer_model(), lr=1e-2, precision="float32", use_gpu=False, seed=2,
        store=tiny_store(),
    )


@pytest.mark.parametrize("sampler", ["RandomDatasetIdentitySampler", "RandomIdentitySampler"])
def test_stopped_within_an_epoch_it_ends_with_the_same_bits(root, tmp_path, sampler):
    whole = engine(root, sampler)
    history = whole.run(tmp_path / "whole", max_epoch=2)
    assert whole.model.trunk.net[0].weight.grad is not None and len(history) == 2
    cut = engine(root, sampler)
    (phase,) = phases = cut.phases(2)
    inner, done = phase.step, []

    def step(epoch, number):
        done.append(number)
        if len(done) == 8:  # within the second epoch of six steps
            signal.raise_signal(signal.SIGINT)
        return inner(epoch, number)

    phase.step, cut.phases = step, lambda _: phases
    with pytest.raises(Interrupted):
        cut.run(tmp_path / "cut", max_epoch=2)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = engine(root, sampler)
    assert resumed.run(tmp_path / "cut", max_epoch=2) == history
    assert same_weights(whole.model, resumed.model)


class Boastful:
    """A loader that promises two batches more than it has, as RandomIdentitySampler does."""

    def __init__(self, loader) -> None:
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size

    def __len__(self) -> int:
        return len(self.loader) + 2

    def __iter__(self):
        return iter(self.loader)


def test_a_loader_that_gives_fewer_batches_than_it_promises_is_started_again(root, tmp_path):
    made = engine(root)
    made.data.train_loader = Boastful(made.data.train_loader)
    assert len(made.run(tmp_path, max_epoch=2)) == 2
    state = made.optimizer.state[made.model.trunk.net[0].weight]
    assert int(state["step"]) == 2 * (6 + 2)


def test_fewer_images_than_a_batch_are_told(root, tmp_path):
    few = r"no batch: .*fewer training images than train\.batch_size 40"
    with pytest.raises(ValueError, match=few):
        engine(root, "RandomSampler", batch_size=40).run(tmp_path, max_epoch=1)


def test_it_says_that_the_usual_road_is_faster(root, tmp_path, caplog):
    engine(root).run(tmp_path, max_epoch=1)
    assert "transforms color_jitter are done by torchreid's loader" in caplog.text


def test_without_a_loader_such_transforms_are_refused(root):
    made = engine(root)
    data = ReIDData(sources=["market1501"], source=made.data.source)
    again = ImageEmbeddingEngine(data, two_layer_model(), transforms=["color_jitter"],
                                 use_gpu=False, store=tiny_store())
    with pytest.raises(ValueError, match="transforms color_jitter need torchreid's loader"):
        again.phases(1)


def test_one_step_through_torchreids_own_interface(root):
    made = engine(root)
    before = made.model.trunk.net[0].weight.detach().clone()
    made.model.train()
    result = made.forward_backward(next(iter(made.data.train_loader)))
    assert result["loss"] > 0 and not torch.equal(made.model.trunk.net[0].weight, before)
