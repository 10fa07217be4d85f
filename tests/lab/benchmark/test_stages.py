"""The step that recomputes the trunk does what the cached one does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.lab.benchmark.context import read_records
from embae_plugin.lab.benchmark.stages import (
    phases_of,
    recomputed_features,
    recomputed_step,
    stage_rows,
)
from embae_plugin.lab.benchmark.stock_torchreid import NORM, build_model
from embae_plugin.models.inference import freeze
from embae_plugin.settings.config import get_default_config
from tests.lab.benchmark import tiny


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_recomputed_step_gives_the_cached_steps_loss_and_weights(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embae_plugin.lab.benchmark.stages.IMAGES", 256)
    context = tiny.tiny_context(tmp_path)
    model = build_model(tiny.TINY)
    store = FeatureStore(tiny.TINY.height, tiny.TINY.width, NORM, NORM, "cpu")
    _, phase, _ = phases_of(context, "cpu", model, store)[number]
    phase.start()
    phase.start_epoch(0)
    bank = store.images(read_records(context.crops(256, 1, 1), "train"), "crops")
    trunk = freeze(model.trunk, (tiny.TINY.height, tiny.TINY.width))

    h = recomputed_features(phase, trunk, bank, 0)
    torch.testing.assert_close(h, phase.rows[phase.plan[0]], rtol=1e-3, atol=1e-4)
    before = copy.deepcopy(model.state_dict())
    cached = float(phase.step(0, 0)["reconstruction"])
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    model.load_state_dict(before)
    anew = float(recomputed_step(phase, trunk, bank, 0)["reconstruction"])
    assert anew == pytest.approx(cached, rel=1e-3)
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_whole_is_scaled_from_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embae_plugin.lab.benchmark.stages.IMAGES", 256)
    monkeypatch.setattr("embae_plugin.lab.benchmark.stages.MARKET", 2520)
    rows = stage_rows(tiny.tiny_context(tmp_path), "cpu")
    steps, whole = rows[:3], rows[3]
    node = get_default_config().embae
    epochs = (node.autoencoder.max_epoch, node.transfer.nuisance_epoch, node.transfer.max_epoch)
    counts = [10 * number for number in epochs]  # 10 batches of 252 in an epoch
    assert whole.stock is not None and whole.floor is not None
    scaled = sum(
        row.stock.median * count for row, count in zip(steps, counts, strict=True) if row.stock
    )
    assert whole.stock.median == pytest.approx(scaled / 1e3)
    assert "not run" in whole.note and f"{sum(counts):,} steps" in whole.note
    assert all(row.ratio is not None and row.times_floor is not None for row in rows)
