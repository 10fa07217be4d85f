"""torchreid's own training script, with nothing of EmbAE's but the name of a model.

The order of calls and their arguments are those of torchreid's ``scripts/main.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchreid

import embae_plugin  # noqa: F401  (importing it is what registers the model)
from tests.zoo_files import write_market1501


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """4 identities to train on; 9 to test on, for torchreid needs 50 gallery images a query."""
    write_market1501(tmp_path, train_ids=4, test_ids=9, shots=3, size=(16, 32))
    return tmp_path


def stock_run(root: Path, loss: str, sampler: str) -> torchreid.engine.Engine:
    """One epoch and a test, as torchreid's script does it."""
    torchreid.utils.set_random_seed(1)
    datamanager = torchreid.data.ImageDataManager(
        root=str(root), sources="market1501", height=64, width=32, transforms="random_flip",
        batch_size_train=8, batch_size_test=30, workers=0, use_gpu=False, num_instances=2,
        train_sampler=sampler,
    )
    model = torchreid.models.build_model(
        name="embae_mobilenetv1", num_classes=datamanager.num_train_pids, loss=loss,
        pretrained=False, use_gpu=False,
    )
    params, flops = torchreid.utils.compute_model_complexity(model, (1, 3, 64, 32))
    # Everything but the classifier and what only the autoencoder uses is seen in a forward pass.
    seen = sum(p.numel() for part in (model.trunk, model.f_emb) for p in part.parameters())
    assert params == pytest.approx(seen, rel=0.01) and flops > 1e7
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=3e-4)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, "single_step", stepsize=20)
    if loss == "softmax":
        engine = torchreid.engine.ImageSoftmaxEngine(
            datamanager, model, optimizer, scheduler=scheduler, use_gpu=False
        )
    else:
        engine = torchreid.engine.ImageTripletEngine(
            datamanager, model, optimizer, margin=0.3, weight_t=1, weight_x=0,
            scheduler=scheduler, use_gpu=False,
        )
    engine.run(save_dir=str(root / "log"), max_epoch=1, print_freq=1)
    return engine


@pytest.mark.parametrize(
    ("loss", "sampler", "learned"),
    [("softmax", "RandomSampler", {"trunk", "f_emb", "classifier"}),
     ("triplet", "RandomIdentitySampler", {"trunk", "f_emb"}),
     ("triplet", "RandomDatasetIdentitySampler", {"trunk", "f_emb"})],
)
def test_stock_script(root, capsys, loss, sampler, learned):
    engine = stock_run(root, loss, sampler)
    printed = capsys.readouterr().out
    assert "epoch: [1/1][3/3]" in printed
    assert "Rank-1" in printed
    assert "nan" not in printed.lower()
    moved = {name.split(".")[0] for name, p in engine.model.named_parameters()
             if p in engine.optimizer.state}
    assert moved == learned
    assert list((root / "log" / "model").glob("model.pth.tar-1"))


def test_staged_learning_rates(root):
    model = torchreid.models.build_model("embae_mobilenetv1", 4, loss="triplet", pretrained=False)
    optimizer = torchreid.optim.build_optimizer(
        model, lr=0.1, staged_lr=True, new_layers=["f_emb", "classifier"], base_lr_mult=0.1
    )
    old_group, new_group = optimizer.param_groups
    assert (old_group["lr"], new_group["lr"]) == (pytest.approx(0.01), 0.1)
    new = len(list(model.f_emb.parameters())) + len(list(model.classifier.parameters()))
    assert len(new_group["params"]) == new
    assert len(old_group["params"]) == len(list(model.parameters())) - new


def test_training_and_testing_outputs():
    images = torch.zeros(2, 3, 64, 32)
    for loss in ("softmax", "triplet"):
        model = torchreid.models.build_model("embae_mobilenetv1", 5, loss=loss, pretrained=False)
        output = model(images)
        logits = output if loss == "softmax" else output[0]
        assert logits.shape == (2, 5)
        assert model.eval()(images).shape == (2, 128)
