"""Runs that train nothing: their scores are functions of variant and seed."""

from __future__ import annotations

from pathlib import Path

from embae_plugin.evaluation.score_table import Row
from embae_plugin.lab.reproduction.jobs import Plan, plan_jobs
from embae_plugin.lab.reproduction.preset import Preset, load_preset

IMAGES = {"source": 100, "training": 12_936, "query": 3_368, "gallery": 15_913}
STEP = {"baseline": 0, "all": 1, "fix": 2, "new": 3, "dataset": 4, "cam": 5, "pul-baseline": 6,
        "pul": 7}


def fake_row(variant: str, seed: int) -> Row:
    """rank1 is 0.4 + 0.01 for each variant + 0.001 for each seed; mAP half of that."""
    rank1 = 0.4 + 0.01 * STEP[variant] + 0.001 * seed
    return {"variant": variant, "rank1": rank1, "rank1_nd": rank1 + 0.1, "mAP": rank1 / 2,
            "mAP_nd": rank1 / 2 + 0.1}


class FakeTraining:
    """Stands for ``run_config``; remembers what it was asked for."""

    def __init__(self, error: BaseException | None = None, at: int = 0) -> None:
        self.calls: list[tuple[str, int, list[str]]] = []
        self.error, self.at = error, at

    def __call__(self, cfg) -> list[Row]:
        variants = list(cfg.embae.variants)
        self.calls.append((Path(cfg.data.save_dir).name, cfg.train.seed, variants))
        if self.error is not None and len(self.calls) == self.at:
            raise self.error
        own = cfg.embae.pul.base == "softmax" and "pul" in variants
        names = [] if variants == ["pul"] and own else ["baseline"]
        names += [name for name in variants if name != "baseline"] + ["pul-baseline"] * own
        return [fake_row(name, cfg.train.seed) for name in names]


def write_preset(folder: Path, text: str) -> Preset:
    path = folder / "reproduce_mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_preset(str(path))


def paper_plan(out: Path, tables=(1, 2, 3, 4), seeds=(1, 2), **more) -> Plan:
    return plan_jobs(load_preset("paper"), tables, seeds, out, **more)
