"""Which training runs the tables need: those with the same data share one run for each seed.

A run lies in ``OUT/SOURCES-to-TARGET-seedK`` and is what ``embae train`` leaves; where PUL has a
network of its own, its run lies in ``OUT/SOURCES-to-TARGET-pul-seedK``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.lab.reproduction.preset import Preset
from embae_plugin.lab.reproduction.published import PaperRow, table_rows
from embae_plugin.methods.registry import variant_names
from embae_plugin.settings.config import check_config, flatten

PUBLISHED_NETWORK = "embae_resnet50"
_ORDER = variant_names()  # a run's rows
# What may change between two calls without changing a score.
_ELSEWHERE = ("data.root", "data.save_dir", "data.workers", "train.print_freq", "embae.variants",
              "embae.cache_dir", "embae.image_memory_share", "embae.save_interval")


@dataclass(frozen=True)
class PulSetting:
    """What PUL's rows are."""

    own: bool  # PUL starts from a baseline of its own, trained by softmax; else from stage 1's
    network: str = PUBLISHED_NETWORK  # the own baseline's
    heads_only: bool = False  # PUL leaves the trunk as it is

    @property
    def published(self) -> bool:
        """Whether it is what the paper's numbers belong to."""
        return self.own and self.network == PUBLISHED_NETWORK

    def variant(self, role: str) -> str:
        """The row of ``results.json`` that holds the scores of a role."""
        return role if role != "pul_baseline" else "pul-baseline" if self.own else "baseline"

    def label(self, row: PaperRow) -> str:
        """The row's name; it says so where PUL is not the published one."""
        if not is_pul(row) or self.published:
            return row.label
        if not self.own and row.role == "pul":
            return "PUL on the EmbAE embedding" + ", heads only" * self.heads_only
        return f"{row.label} ({self.network if self.own else '= Baseline Embedding'})"

    def note(self) -> str:
        """A remark for tables with PUL's rows; ``""`` where there is nothing to say."""
        if self.published:
            return ""
        trunk = " and learns the head alone, the trunk as it is" if self.heads_only else ""
        start = f"a {self.network} trained by softmax" if self.own else "the EmbAE embedding"
        return (
            f"PUL starts here from {start}{trunk}; its published numbers are of another network, "
            "a ResNet-50 trained by softmax, and stand there for reference only."
        )


def is_pul(row: PaperRow) -> bool:
    """Whether PUL makes the row, and not EmbAE."""
    return row.role in ("pul", "pul_baseline")


@dataclass(frozen=True)
class Job:
    """One run of one seed."""

    key: str  # the run's name without its seed
    seed: int
    tables: tuple[int, ...]  # the numbers of those that it serves
    rows: tuple[str, ...]  # of results.json that they need of it
    cfg: CfgNode  # checked, with all of that

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.cfg.data.save_dir)


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """A flat configuration without what changes no score."""
    return {key: value for key, value in flatten(cfg).items() if key not in _ELSEWHERE}


def variants_for(rows: Iterable[str]) -> list[str]:
    """``embae.variants`` of a run that is to leave these rows."""
    wanted = set(rows)
    return [name for name in variant_names() if name in wanted]


@dataclass
class Plan:
    """All runs for some tables."""

    jobs: list[Job]  # the first seed of all before the second of any
    pul: dict[int, PulSetting]  # table to what its PUL rows are
    rows: dict[int, tuple[PaperRow, ...]]  # table to its rows


def plan_jobs(
    preset: Preset, tables: Sequence[int], seeds: Sequence[int], out: Path, root: str = "",
    all_variants: bool = False, options: Sequence[str] = (),
) -> Plan:
    """The runs that ``tables`` need.

    Without ``root`` data are looked for where the configuration says, or, where all of them are
    built in, in ``OUT/reid-data``. ``options`` go over the preset's settings. Raises ValueError
    where the preset lacks a table, a configuration cannot work, or tables with the same data sets
    want different settings.
    """
    missing = [str(number) for number in tables if number not in preset.tables]
    if missing:
        raise ValueError(f"{preset.path} has no table {', '.join(missing)}; it has "
                         f"{', '.join(map(str, preset.tables))}")
    plan = Plan([], {}, {number: table_rows(number, all_variants) for number in tables})
    kinds: dict[str, Job] = {}  # of no seed yet
    for number, rows in plan.rows.items():
        cfg = preset.config(number, options)
        pul_cfg = preset.config(number, options, pul=True) if preset.pul else cfg
        node = pul_cfg.embae
        pul = PulSetting(node.pul.base == "softmax", node.trunk or pul_cfg.model.name,
                         node.pul.heads_only)
        plan.pul[number] = pul
        key = f"{'+'.join(cfg.data.sources)}-to-{'+'.join(cfg.data.targets)}"
        apart = [row for row in rows if is_pul(row)] if preset.pul else []
        for name, its, needed in ((key, cfg, [row for row in rows if row not in apart]),
                                  (f"{key}-pul", pul_cfg, apart)):
            if not needed:
                continue
            job = kinds.get(name, Job(name, 0, (), (), its))
            mine = settings_of(its)
            differing = [key for key, value in settings_of(job.cfg).items() if mine[key] != value]
            if differing:
                raise ValueError(
                    f"{preset.path}: tables {job.tables[0]} and {number} are both {name}, but "
                    f"differ in {', '.join(differing)}. Tables with the same data share their "
                    "runs, so their settings must agree"
                )
            wanted = {*job.rows, *(pul.variant(row.role) for row in needed)}
            kinds[name] = replace(job, tables=(*job.tables, number),
                                  rows=tuple(row for row in _ORDER if row in wanted))
    plan.jobs = [_seeded(kind, seed, out, root) for seed in seeds for kind in kinds.values()]
    return plan


def _seeded(kind: Job, seed: int, out: Path, root: str) -> Job:
    cfg = kind.cfg.clone()
    cfg.train.seed = seed
    cfg.data.save_dir = str(out / f"{kind.key}-seed{seed}")
    if root:
        cfg.data.root = root
    elif {*cfg.data.sources, *cfg.data.targets} <= set(SPECS):
        cfg.data.root = str(out / "reid-data")
    cfg.embae.variants = variants_for(kind.rows)
    if cfg.loss.name != "embae" or not cfg.data.targets:
        raise ValueError("the tables need loss.name embae and a target (data.targets)")
    check_config(cfg)
    return replace(kind, seed=seed, cfg=cfg)
