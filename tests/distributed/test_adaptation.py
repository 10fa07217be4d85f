"""Two ranks adapt as one process does: statistics, clusters, every kind of step, and commands."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embae_plugin import distributed
from embae_plugin.clustering import neighbours, pseudo_labels
from embae_plugin.methods import camera_statistics, clusters
from embae_plugin.methods.camera_statistics import estimate
from embae_plugin.methods.clusters import ImageClusterEngine
from embae_plugin.methods.distill import ImageDistillEngine
from embae_plugin.methods.pul import ImagePULEngine
from embae_plugin.methods.softmax import ImageIdentificationEngine
from embae_plugin.methods.supervised import ImageSupervisedEngine
from embae_plugin.models.camera_norm import at_cameras, camera_layers
from embae_plugin.training.run_identity import load_checkpoint
from embae_plugin.training.shared_batch import Share, send_statistics, together
from tests.distributed.ranks import in_ranks
from tests.methods.tiny import same_weights, tiny_data, tiny_model, tiny_store, two_layer_model

PEOPLE = np.repeat(np.arange(7), 9)  # of the tiny target's images, in order


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("crops"))


# --- the parts --------------------------------------------------------------------------------


def test_shares_are_even_or_keep_cameras_whole(monkeypatch):
    groups = torch.tensor([0] * 5 + [3] * 4 + [7] * 4 + [8] * 3)
    monkeypatch.setattr(distributed, "_size", 2)
    parts = {}
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "_rank", rank)
        parts[rank] = (Share(7).mine.tolist(), groups[Share(16, groups).mine].tolist())
        with pytest.raises(ValueError, match="2 processes share a batch of 3 images"):
            Share(3)
    assert parts == {0: ([0, 1, 2], [0] * 5 + [8] * 3), 1: ([3, 4, 5, 6], [3] * 4 + [7] * 4)}


def one_batch(by_camera: bool) -> Any:
    """A step's gradients and statistics in 27 layers, with a layer nothing is learned from."""
    model, cameras = tiny_model().double(), torch.tensor([0] * 4 + [1] * 4 + [2] * 2)
    if by_camera:
        model.learn_cameras("trunk", ["a", "b", "c"])
    x = torch.randn(10, 3, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    share, unused = Share(10, cameras if by_camera else None), nn.Linear(2, 2)
    model.train()
    with together([model.trunk], [*model.trunk.parameters(), *unused.parameters()]):
        with at_cameras(model.trunk, share.of(cameras)):
            z = share.gather(model.trunk(share.of(x)))
        z = nn.functional.normalize(z, dim=1)
        (z @ z.T).square().mean().backward()
    send_statistics(camera_layers(model.trunk), share.of(cameras).tolist(), cameras.tolist())
    assert unused.weight.grad is None
    return [p.grad for p in model.trunk.parameters()], list(model.buffers()), z.detach()


@pytest.mark.parametrize("by_camera", [False, True])
def test_a_loss_over_pairs_of_a_batch_has_one_processs_gradient(by_camera):
    """In float64 to 1e-7 relative: what is left in float32 is rounding."""
    alone = one_batch(by_camera)
    assert max(float(grad.abs().max()) for grad in alone[0]) > 1e-3
    for answer in in_ranks(3, one_batch, by_camera):
        torch.testing.assert_close(answer, alone, rtol=1e-7, atol=1e-10)


def cluster(x: torch.Tensor) -> Any:
    neighbours.BLOCK = 8 * len(x)  # so that there are blocks to share out
    found = pseudo_labels(x, np.arange(len(x)) % 3, 0.6, 3, 8, 3)
    who = distributed.from_rank_zero(lambda: (distributed.size(), os.getpid()))
    near = torch.stack([neighbours.nearest(x, 5, how) for how in ("exact", "approximate")])
    return near, found.labels, who, os.getpid()


def test_neighbours_by_shards_and_clusters_by_rank_zero_are_one_processs(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", neighbours.BLOCK)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, generator=generator).repeat_interleave(5, 0)
    x = nn.functional.normalize(x + 0.3 * torch.randn(40, 16, generator=generator), dim=1)
    nearest, labels, _, _ = cluster(x)
    answers = in_ranks(2, cluster, x)
    assert labels.max() > 1
    for answer in answers:
        assert torch.equal(answer[0], nearest) and np.array_equal(answer[1], labels)
        assert answer[2] == (1, answers[0][3])


def statistics(data, folder: Path) -> Any:
    model, seen = two_layer_model(), []
    inner = camera_statistics.Estimation._row

    def counted(self, camera, rows):
        seen.append(camera)
        inner(self, camera, rows)

    camera_statistics.Estimation._row = counted
    estimate(model, data.target_train, tiny_store(folder), "trunk")
    camera_statistics.Estimation._row = inner
    return model, sorted(seen)


def test_statistics_by_camera_are_equal_bit_by_bit_and_each_is_estimated_once(data, tmp_path):
    alone, everything = statistics(data, tmp_path)
    answers = in_ranks(2, statistics, data, tmp_path)
    assert everything == [-1, 0, 1, 2] == sorted(answers[0][1] + answers[1][1])
    assert all(answers[rank][1] for rank in (0, 1))
    assert all(same_weights(model, alone) for model, _ in answers)


# --- stages -----------------------------------------------------------------------------------


def engine_of(kind: str, data, folder: Path) -> Any:
    model, store = two_layer_model(), tiny_store(folder / "cache")
    if kind in ("clusters by camera", "supervised", "distill", "heads"):
        estimate(model, data.target_train, store, "trunk")
    how: dict[str, Any] = {"use_gpu": False, "seed": 3, "store": store}
    if kind == "distill":
        return ImageDistillEngine(data, ImageDistillEngine.prepared(model), teacher=model,
                                  batch_size=9, precision="float32", **how)
    if kind in ("softmax", "pul"):
        more = {} if kind == "softmax" else {"rounds": 2, "clusters": 5, "threshold": 0.5}
        made = ImageIdentificationEngine if kind == "softmax" else ImagePULEngine
        return made(data, model, batch_size=9, precision="float32", **more, **how)
    how |= {"eps": 0.6, "min_samples": 3, "k1": 8, "k2": 3, "batch_size": 16, "steps": 4,
            "precision": "float32", "lr": 1e-3, "final_lr": 1e-3}
    if kind == "supervised":
        return ImageSupervisedEngine(data, model, "trunk", identities=PEOPLE, **how)
    return ImageClusterEngine(data, model, "heads" if kind == "heads" else "trunk", **how)


def stage(kind: str, data, folder: Path, kill_at: int = 0) -> Any:
    """History, model and memory; rank 1 is killed before its ``kill_at``-th step."""
    engine, left, centres = engine_of(kind, data, folder), kill_at, []
    inner, move = clusters.Rounds.loss, clusters.Rounds.move_centres

    def loss(self, batch):
        nonlocal left
        left -= 1
        if left == 0 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, batch)

    def moved(self, x, labels):
        move(self, x, labels)
        centres.append(self.centres.clone())

    clusters.Rounds.loss, clusters.Rounds.move_centres = loss, moved
    try:
        history = engine.run(folder, max_epoch=2, save_interval=0)
    finally:
        clusters.Rounds.loss, clusters.Rounds.move_centres = inner, move
    return history, copy.deepcopy(engine.model.state_dict()), centres[-1:]


KINDS = ["clusters by camera", "clusters", "supervised", "heads", "distill", "softmax", "pul"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_what_one_process_learns(data, tmp_path, kind):
    """Weights and logged numbers to 1e-5 after two epochs; both ranks hold the same bits."""
    alone = stage(kind, data, tmp_path / "alone")
    both = in_ranks(2, stage, kind, data, tmp_path / "both")
    torch.testing.assert_close(both[0][1:], both[1][1:], rtol=0, atol=0)
    assert both[0][0] == both[1][0]
    torch.testing.assert_close(both[0][1:], alone[1:], rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(alone[0], both[0][0], strict=True):
        assert theirs.pop("phase") == mine.pop("phase")
        assert theirs == pytest.approx(mine, rel=1e-5, nan_ok=True)


def test_a_killed_rank_ends_the_other_and_both_resume_to_the_same_bits(data, tmp_path):
    kind = "clusters by camera"
    whole = in_ranks(2, stage, kind, data, tmp_path / "whole")
    lost, dead = in_ranks(2, stage, kind, data, tmp_path / "cut", 7)
    assert isinstance(dead, EOFError) and isinstance(lost, distributed.PeerLost)
    last = tmp_path / "cut" / "clusters-trunk" / "last.pth"
    assert f"The last good state is {last}; the same command goes on" in str(lost)
    assert not load_checkpoint(last)["done"]
    resumed = in_ranks(2, stage, kind, data, tmp_path / "cut")
    assert resumed[0][0] == whole[0][0]
    torch.testing.assert_close(resumed[0][1:], whole[0][1:], rtol=0, atol=0)


def one_camera(data, folder: Path) -> Any:
    given = copy.copy(data)
    given.target_train = data.target_train.rows(np.flatnonzero(data.target_train.camids == 0))
    engine = ImageSupervisedEngine(
        given, two_layer_model(), "trunk", identities=PEOPLE[data.target_train.camids == 0],
        batch_size=8, num_instances=2, steps=2, precision="float32", use_gpu=False,
        store=tiny_store(folder),
    )
    estimate(engine.model, given.target_train, engine.store, "trunk")
    engine.run(folder / str(distributed.size()), max_epoch=2)
    return engine.model.state_dict()


def test_a_rank_without_a_camera_learns_from_the_others(data, tmp_path):
    alone = one_camera(data, tmp_path)
    for weights in in_ranks(2, one_camera, data, tmp_path):
        torch.testing.assert_close(weights, alone, rtol=1e-5, atol=1e-5)


def test_statistics_of_a_part_only_are_refused_by_name(data, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_size", 2)
    send_statistics([], [], [1])  # nothing to send
    monkeypatch.setattr(clusters.Rounds, "_learns_by_camera", lambda self: True)
    engine = engine_of("clusters", data, tmp_path)
    with pytest.raises(ValueError, match="only a part of the network .*start without torchrun"):
        engine.phases(1)[0].start()
