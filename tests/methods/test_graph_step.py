"""Which step stage 1 takes: eager, in bfloat16 or not, or captured once as a CUDA graph."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from embae_plugin.data.augment import Augmentation
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods import ImageEmbeddingEngine
from embae_plugin.methods.embedding import paper_adam
from embae_plugin.training.schedule import seeded
from embae_plugin.training.train_step import (
    EagerStep,
    GraphStep,
    build_step,
    has_fast_bf16,
    resolve_precision,
)
from tests.methods.test_train_step import CPU, HALF, batches
from tests.methods.tiny import (
    HEIGHT,
    WIDTH,
    tiny_data,
    tiny_store,
    two_layer_model,
    write_crops,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("crops"), people=4, cameras=2, each=3)


@pytest.fixture(scope="module")
def bank(records):
    return ImageBank(records.paths, HEIGHT, WIDTH)


def test_precision_by_name(monkeypatch):
    assert resolve_precision("bf16", CPU) is True and resolve_precision("float32", CPU) is False
    monkeypatch.setattr("embae_plugin.training.train_step.has_fast_bf16", has_fast_bf16)
    assert resolve_precision("auto", CPU) is has_fast_bf16(CPU)
    for fast in (True, False):
        monkeypatch.setattr("embae_plugin.training.train_step.has_fast_bf16", lambda _, f=fast: f)
        assert resolve_precision("auto", CPU) is fast
        assert resolve_precision("float32", CPU) is False
    with pytest.raises(ValueError, match="precision 'fp16': must be auto, float32 or bf16"):
        resolve_precision("fp16", CPU)


def eager_step(optimizer=None) -> EagerStep:
    model = two_layer_model()
    optimizer = optimizer or paper_adam(model.parameters(), 1e-3, CPU)
    return EagerStep(model, BatchHardTripletLoss(), optimizer, bf16=False)


def test_without_a_gpu_auto_and_eager_are_the_eager_step(bank):
    eager = eager_step()
    augment = Augmentation(("random_flip",), HALF, HALF)
    for mode in ("auto", "eager"):
        assert build_step(mode, eager, bank, augment, 12) is eager


def test_a_graph_that_cannot_be_captured_says_why(bank):
    augment = Augmentation(("random_flip", "random_crop"), HALF, HALF)
    with pytest.raises(ValueError) as caught:
        build_step("graph", eager_step(), bank, augment, 12)
    for reason in ("embae.embedding.step graph cannot be used", "not on a GPU",
                   "transforms random_flip, random_crop", "not capturable Adam"):
        assert reason in str(caught.value)
    with pytest.raises(ValueError, match="'fast': must be auto, eager or graph"):
        build_step("fast", eager_step(), bank, augment, 12)


def test_auto_leaves_the_graph_to_flips_and_capturable_adam(monkeypatch):
    """What build_step looks at on a machine with a GPU, with the capture itself left out."""
    made = []
    monkeypatch.setattr(
        "embae_plugin.training.train_step.GraphStep", lambda *args: made.append(args) or "graph"
    )
    on_gpu = SimpleNamespace(images=SimpleNamespace(device=torch.device("cuda")))
    flips, crops = (Augmentation(t, HALF, HALF) for t in (("random_flip",), ("random_crop",)))
    model = two_layer_model()
    capturable = SimpleNamespace(param_groups=[{"capturable": True}])
    good, sgd = eager_step(capturable), eager_step(torch.optim.SGD(model.parameters(), 0.1))
    assert build_step("auto", good, on_gpu, flips, 12) == "graph" and len(made) == 1
    assert build_step("graph", good, on_gpu, flips, 12) == "graph"
    assert build_step("eager", good, on_gpu, flips, 12) is good
    assert build_step("auto", good, on_gpu, crops, 12) is good
    assert build_step("auto", sgd, on_gpu, flips, 12) is sgd
    assert build_step("auto", good, on_gpu, flips, 12, by_camera=True) is good
    with pytest.raises(ValueError, match="camera_norm splits every batch"):
        build_step("graph", good, on_gpu, flips, 12, by_camera=True)


def test_an_engine_refuses_a_graph_without_a_gpu_before_any_step(tmp_path):
    data = tiny_data(tmp_path / "crops")
    engine = ImageEmbeddingEngine(
        data, two_layer_model(), batch_size=12, num_instances=3, transforms=["random_flip"],
        step="graph", use_gpu=False, store=tiny_store(),
    )
    with pytest.raises(ValueError, match="graph cannot be used: the images are not on a GPU"):
        engine.run(tmp_path / "run", max_epoch=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_graph_step_is_the_eager_step_on_a_gpu(records):
    device = torch.device("cuda")
    on_gpu = ImageBank(records.paths, HEIGHT, WIDTH, device)
    augment = Augmentation(("random_flip",), HALF, HALF)
    results = []
    for mode in ("eager", "graph"):
        model = copy.deepcopy(two_layer_model()).to(device, memory_format=torch.channels_last)
        optimizer = paper_adam(model.train().parameters(), 1e-3, device)
        eager = EagerStep(model, BatchHardTripletLoss(), optimizer, bf16=False)
        step = build_step(mode, eager, on_gpu, augment, 12)
        assert isinstance(step, GraphStep) is (mode == "graph")
        losses = [
            float(step(on_gpu, index, pids, augment, seeded("augment", number)))
            for number, (index, pids) in enumerate(batches(records, 4))
        ]
        results.append((losses, model.cpu().state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-3)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-2, atol=1e-4)
