"""Estimates by hand, and speeds that are truly timed."""

from __future__ import annotations

import pytest
import torch

from embae_plugin.lab.reproduction import estimate
from embae_plugin.lab.reproduction.estimate import Speeds, estimated_seconds, measure_speeds
from embae_plugin.lab.reproduction.forecast import duration
from embae_plugin.settings.config import load_config

IMAGES = {"source": 720, "target": 512, "query": 10, "gallery": 90}
SPEEDS = Speeds(train_step=1.0, view=0.1, head_step=0.01, pul_step=0.001)


def config(*options: object):
    common = {
        "embae.pul.rounds": 2, "embae.pul.max_epoch": 3, "embae.pul.batch_size": 16,
        "embae.pul.baseline_epoch": 4, "train.max_epoch": 5, "embae.autoencoder.max_epoch": 40,
        "embae.transfer.nuisance_epoch": 20, "embae.transfer.max_epoch": 10,
    }  # fmt: skip
    return load_config(
        "viper_cuhk01_to_market1501", [str(part) for part in (*sum(common.items(), ()), *options)]
    )


def seconds(*options: object) -> float:
    return estimated_seconds(config(*options), IMAGES, SPEEDS)


def test_stage_1_and_features():
    # 10 steps of 72 in each of 5 epochs; all 1,332 images with their mirror images.
    assert seconds("embae.variants", "['baseline']") == pytest.approx(50 + 0.1 * 2 * 1332)
    ten = seconds("embae.variants", "['baseline']", "embae.test.tta", "ten_crop")
    assert ten == pytest.approx(50 + 0.1 * (2 * 1232 + 10 * 100))


def test_stages_2_and_3():
    base = seconds("embae.variants", "['baseline']")
    # Stage 2: 40 epochs of 2 steps; stage 3: 10 epochs of 2 steps, and 20 more for a new f_nui.
    assert seconds("embae.variants", "['fix']") - base == pytest.approx((80 + 20) * 0.01)
    assert seconds("embae.variants", "['fix','new']") - base == pytest.approx((80 + 80) * 0.01)
    assert seconds("embae.variants", "['new','cam']") - base == pytest.approx((160 + 120) * 0.01)


def test_pul():
    base = seconds("embae.variants", "['baseline']")
    # 2 rounds of 3 epochs of 32 steps; 200 views more to score; 2 × 512 to cluster.
    work = 6 * 32 * 0.001 + 0.1 * (200 + 1024)
    assert seconds("embae.variants", "['pul']") - base == pytest.approx(work)
    heads = seconds("embae.variants", "['pul']", "embae.pul.heads_only", "True")
    assert heads - base == pytest.approx(work - 102.4)
    own = seconds("embae.variants", "['pul']", "embae.pul.base", "softmax")
    # Its baseline: 4 epochs of 45 steps. No stage of EmbAE.
    assert own == pytest.approx(work + 4 * 45 * 0.001 + 0.1 * 200)


@pytest.mark.parametrize("heads_only", [False, True])
def test_speeds_are_those_of_the_steps_themselves(monkeypatch, heads_only):
    clock = iter([16.0, 32.0, 64.0, 128.0])

    def one_call(work, device, repeats):
        work()  # every kind of step must run
        return next(clock)

    monkeypatch.setattr(estimate, "_seconds", one_call)
    cfg = config("embae.trunk", "mobilenetv1_x0_25", "use_gpu", "False", "train.batch_size", "8",
                 "data.height", "32", "data.width", "16", "embae.autoencoder.batch_size", "8",
                 "embae.pul.heads_only", heads_only)  # fmt: skip
    before = cfg.dump()
    assert measure_speeds(cfg) == Speeds(16.0, 32.0 / 8, 64.0, 128.0)
    assert cfg.dump() == before


def test_the_fastest_of_the_calls_after_warming_up_counts(monkeypatch):
    ends = iter([100.0, 50.0, 3.0, 2.0, 4.0])
    clock = iter([value for end in ends for value in (0.0, end)])
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock))
    assert estimate._seconds(lambda: None, torch.device("cpu"), 3) == 2.0


@pytest.mark.parametrize(("value", "text"), [(0, "0 s"), (45.4, "45 s"), (99.4, "99 s"),
                         (100, "2 min"), (5399, "90 min"), (7200, "2.0 h")])  # fmt: skip
def test_durations(value, text):
    assert duration(value) == text
