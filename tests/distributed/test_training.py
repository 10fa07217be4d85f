"""Two ranks train, extract and rank as one process does, stop together, and go on together."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from embae_plugin import distributed
from embae_plugin.data import feature_bank, image_bank
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods import ImageEmbeddingEngine, ImageTransferEngine
from embae_plugin.training.loop import Interrupted
from embae_plugin.training.run_identity import load_checkpoint
from embae_plugin.training.scoring import score_model
from embae_plugin.training.train_step import EagerStep
from tests.distributed.ranks import in_ranks
from tests.methods.tiny import same_weights, tiny_data, tiny_model, tiny_store, two_layer_model

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("crops"))


# --- the averaged step ----------------------------------------------------------------------


def batch_of(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight noise images of four people."""
    images = torch.randn(8, 3, 32, 16, generator=torch.Generator().manual_seed(rank))
    return images, torch.arange(4).repeat_interleave(2)


def one_step() -> tuple[float, Weights, Weights]:
    """Loss, gradients and weights of a step on this rank's batch."""
    model = two_layer_model().train()
    step = EagerStep(
        model, BatchHardTripletLoss("soft"), torch.optim.SGD(model.parameters(), 0.1), False
    )
    loss = step.compute(*batch_of(distributed.rank()))
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss), gradients, copy.deepcopy(dict(model.state_dict()))


def test_two_ranks_learn_what_one_process_learns_from_both_losses():
    """The gradient of the mean of both batches' losses, to float32 rounding.

    Hard positives and negatives are mined, and batch norm normalises, within each batch; running
    statistics are the mean of the two batches'.
    """
    answers = in_ranks(2, one_step)
    model = two_layer_model().train()
    other = copy.deepcopy(model)
    mine = BatchHardTripletLoss("soft")
    losses = [mine(net(batch_of(rank)[0])[1], batch_of(rank)[1])
              for rank, net in enumerate((model, other))]
    for loss in losses:
        loss.backward()
    mean = float(sum(losses).detach()) / 2
    sums = zip(model.named_parameters(), other.parameters(), strict=True)
    wanted = {n: (p.grad + q.grad) / 2 for (n, p), q in sums if p.grad is not None}
    statistics = {
        name: (value + other.state_dict()[name]) / 2
        for name, value in model.state_dict().items()
        if "running" in name
    }
    assert abs(float((losses[0] - losses[1]).detach())) > 1e-3  # the batches are different ones
    for loss, gradients, weights in answers:
        assert loss == pytest.approx(mean, rel=1e-6)
        assert gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6)
        for name, value in statistics.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-7)
    first, second = (weights for _, _, weights in answers)
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- features and rankings in shards ----------------------------------------------------------


def features_and_scores(data, folder: Path) -> dict[str, object]:
    decoded = []
    inner = image_bank.decode

    def counted(path: str, *size: int) -> np.ndarray:
        decoded.append(path)
        return inner(path, *size)

    image_bank.decode = counted
    feature_bank.BLOCK = 8  # 63 target images make eight blocks
    store, model = tiny_store(folder), tiny_model().eval()
    features = store.features(model.trunk, data.target_train, "target")
    count = len(decoded)
    scores = score_model(model, store, data.query, data.gallery)
    image_bank.decode = inner
    return {"features": features, "decoded": count, "scores": scores}


def test_features_are_equal_bit_by_bit_and_each_rank_decodes_its_share(data, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_bank, "BLOCK", 8)
    alone = features_and_scores(data, tmp_path / "alone")
    both = in_ranks(2, features_and_scores, data, tmp_path / "both")
    assert [answer["decoded"] for answer in both] == [32, 31] and alone["decoded"] == 63
    for answer in both:
        assert torch.equal(answer["features"], alone["features"])
        for protocol, scores in alone["scores"].items():
            theirs = answer["scores"][protocol]
            np.testing.assert_allclose(theirs.cmc, scores.cmc, rtol=1e-12)
            assert theirs.mAP == pytest.approx(scores.mAP, rel=1e-12)
            assert theirs.mAP_trapezoid == pytest.approx(scores.mAP_trapezoid, rel=1e-12)
            assert (theirs.queries, theirs.dropped_queries) == (
                scores.queries, scores.dropped_queries)
    saved = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert saved == sorted(path.name for path in (tmp_path / "alone").iterdir())
    again = in_ranks(2, features_and_scores, data, tmp_path / "both")
    assert [answer["decoded"] for answer in again] == [0, 0]


# --- a stage ------------------------------------------------------------------------------------


def stage_1(data, folder: Path, stop_at: int = 0, number: int = signal.SIGINT) -> object:
    """Stage 1; the signal comes to rank 1 alone, before its ``stop_at``-th step."""
    engine = ImageEmbeddingEngine(
        data, two_layer_model(), batch_size=6, num_instances=2, transforms=["random_flip"],
        use_gpu=False, seed=3, store=tiny_store(folder / "images"),
    )
    inner, left = engine.loss, stop_at

    def loss(z_id: torch.Tensor, pids: torch.Tensor) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left == 0 and distributed.rank() == 1:
            os.kill(os.getpid(), number)
        return inner(z_id, pids)

    engine.loss = loss
    engine.identity = lambda: {**ImageEmbeddingEngine.identity(engine), "loss": repr(inner)}
    history = engine.run(folder, max_epoch=3, save_interval=0)
    return history, copy.deepcopy(dict(engine.model.state_dict()))


def equal(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_signal_to_one_rank_stops_both_and_both_go_on_to_the_same_bits(data, tmp_path):
    whole = in_ranks(2, stage_1, data, tmp_path / "whole")
    assert whole[0][0] == whole[1][0] and equal(whole[0][1], whole[1][1])
    steps = len(data.source) // 12  # two ranks with batches of six
    stopped = in_ranks(2, stage_1, data, tmp_path / "cut", steps + 2, signal.SIGTERM)
    assert all(isinstance(answer, Interrupted) for answer in stopped)
    kept = load_checkpoint(tmp_path / "cut" / "embedding" / "last.pth")
    assert kept["position"] == [0, 1, 2] and not kept["done"]
    resumed = in_ranks(2, stage_1, data, tmp_path / "cut")
    assert resumed[0][0] == whole[0][0] and equal(resumed[0][1], whole[0][1])


def test_a_killed_rank_leaves_a_checkpoint_to_go_on_from(data, tmp_path):
    whole = in_ranks(2, stage_1, data, tmp_path / "whole")
    steps = len(data.source) // 12
    lost, dead = in_ranks(2, stage_1, data, tmp_path / "cut", steps + 2, signal.SIGKILL)
    assert isinstance(dead, EOFError) and isinstance(lost, distributed.PeerLost)
    last = tmp_path / "cut" / "embedding" / "last.pth"
    assert f"The last good state is {last}; the same command goes on" in str(lost)
    assert load_checkpoint(last)["position"] == [0, 1, 0]
    resumed = in_ranks(2, stage_1, data, tmp_path / "cut")
    assert resumed[0][0] == whole[0][0] and equal(resumed[0][1], whole[0][1])


def test_another_number_of_processes_is_refused_until_the_stage_is_done(data, tmp_path):
    in_ranks(2, stage_1, data, tmp_path, 2, signal.SIGINT)
    with pytest.raises(ValueError, match=r"processes \(torchrun's .*\): 2 then, 1 now"):
        stage_1(data, tmp_path)
    both = in_ranks(2, stage_1, data, tmp_path)
    history, weights = stage_1(data, tmp_path)
    assert history == both[0][0] and equal(weights, both[0][1])


def test_ranks_that_see_different_folders_are_refused(data, tmp_path):
    def own_folder() -> object:
        return stage_1(data, tmp_path / str(distributed.rank()))

    (tmp_path / "1").mkdir()
    in_ranks(2, stage_1, data, tmp_path / "both", 2, signal.SIGINT)
    os.rename(tmp_path / "both", tmp_path / "0")
    answers = in_ranks(2, own_folder)
    text = r"done, phase, epoch, step at the start: \[False, 0, 0, 2\] in rank 0, "
    for answer in answers:
        with pytest.raises(ValueError, match=text):
            raise answer


def transfer(data, folder: Path) -> object:
    engine = ImageTransferEngine(data, tiny_model(), "cam", nuisance_epoch=2, batch_size=16,
                                 use_gpu=False, seed=3, store=tiny_store())
    engine.run(folder, max_epoch=2)
    return engine.model


def test_stages_on_features_are_the_same_with_any_number_of_processes(data, tmp_path):
    alone = transfer(data, tmp_path / "alone")
    for model in in_ranks(2, transfer, data, tmp_path / "both"):
        assert same_weights(model, alone)


def test_what_cannot_be_shared_is_refused_by_name(data, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_size", 2)
    engine = ImageEmbeddingEngine(
        data, tiny_model(), transforms=["color_jitter"], use_gpu=False, store=tiny_store()
    )
    data.train_loader = [None]
    try:
        with pytest.raises(ValueError, match=r"color_jitter need torchreid's loader, .*torchrun"):
            engine.phases(1)
    finally:
        data.train_loader = None
