"""How long an adaptation will take: what is counted, and that measuring changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from embae_plugin.methods.time_ahead import LEAST, Work, seconds_ahead, work_of
from embae_plugin.settings.config import load_config
from embae_plugin.training.run_identity import state_fingerprint
from tests.methods.tiny import tiny_model, tiny_store, write_crops


@pytest.mark.parametrize(
    ("options", "cameras", "work"),
    [
        # Features: before, by each camera's statistics, of rounds 2 to 8, and afterwards.
        ([], 6, Work(10, 2, 8 + 3, 2)),
        ([], 30, Work(10, 9, 8 + 3, 2)),  # many cameras' statistics are renewed in each round
        (["embae.clusters.trunk_rounds", "2", "embae.distill.max_epoch", "1"], 6,
         Work(4, 2, 2 + 1, 2)),
        (["embae.adapt.plain", "False"], 6, Work(10, 2, 8, 1)),
        (["embae.adapt.method", "norm"], 6, Work(2, 1, 3, 1)),
        (["embae.adapt.method", "heads"], 6, Work(2, 1, 3, 1)),
        (["embae.adapt.method", "reconstruction"], 6, None),
    ],
)
def test_what_a_method_does(options, cameras, work):
    assert work_of(load_config("", options), cameras) == work


def test_more_rounds_are_foreseen_to_take_longer_and_nothing_changes(tmp_path):
    records = write_crops(tmp_path, people=LEAST // 4, cameras=2, each=2)
    model, store = tiny_model(), tiny_store()
    before = state_fingerprint(model)
    few, many = (
        seconds_ahead(model, records, store, load_config("", ["embae.clusters.trunk_rounds", n]))
        for n in ("1", "100")
    )
    assert 0 < few < many / 5
    assert state_fingerprint(model) == before and not model.camera_parts
    too_few = records.rows(np.arange(LEAST - 1))
    assert seconds_ahead(model, too_few, store, load_config("", [])) is None
