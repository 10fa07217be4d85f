"""Which training runs the tables need: those with the same data share one run for each seed.

A run lies in ``OUT/SOURCES-to-TARGET-seedK`` and is what ``embae train`` leaves; where PUL has a
network of its own, its run lies in ``OUT/SOURCES-to-TARGET-pul-seedK``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.lab.reproduction.preset import Preset
from embae_plugin.lab.reproduction.published import table_rows
from embae_plugin.lab.reproduction.roles import PulSetting, is_pul, wanted_rows
from embae_plugin.settings.config import COMPARISONS, VARIANTS, check_config, flatten

# What may change between two calls without changing a score.
_ELSEWHERE = ("data.root", "data.save_dir", "data.workers", "train.print_freq", "embae.variants",
              "embae.cache_dir", "embae.image_memory_share", "embae.save_interval")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of one seed.

    Attributes:
        key: the run's name without its seed.
        seed: of the run.
        tables: the numbers of the tables that it serves.
        rows: the rows of ``results.json`` that they need of it.
        cfg: a checked configuration with all of that.
    """

    key: str
    seed: int
    tables: tuple[int, ...]
    rows: tuple[str, ...]
    cfg: CfgNode

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.cfg.data.save_dir)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as far as it makes the scores."""
        return settings_of(self.cfg)


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """A flat configuration without what changes no score."""
    return {key: value for key, value in flatten(cfg).items() if key not in _ELSEWHERE}


def variants_for(rows: Sequence[str]) -> list[str]:
    """``embae.variants`` of a run that is to leave these rows."""
    return [name for name in (*VARIANTS, *COMPARISONS) if name in rows]


@dataclass
class Plan:
    """All runs for some tables.

    Attributes:
        jobs: the first seed of all before the second of any.
        pul: table to what its PUL rows are.
    """

    jobs: list[Job]
    pul: dict[int, PulSetting]

    def serving(self, number: int) -> list[Job]:
        """The jobs of a table; those that make its EmbAE rows before any of PUL alone."""
        mine = [job for job in self.jobs if number in job.tables]
        return sorted(mine, key=lambda job: "baseline" not in job.rows)


def plan_jobs(
    preset: Preset,
    tables: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    root: str = "",
    all_variants: bool = False,
    options: Sequence[str] = (),
) -> Plan:
    """The runs that ``tables`` need.

    Args:
        root: the folder with the data sets; ``""``: the configuration's, or, where all data sets
            are built in, ``OUT/reid-data``.
        options: ``key value`` pairs that go over the preset's settings.

    Raises:
        ValueError: the preset lacks a table, a configuration cannot work, or two tables with the
            same data sets want different settings.
    """
    missing = [str(number) for number in tables if number not in preset.tables]
    if missing:
        there = ", ".join(map(str, preset.tables))
        raise ValueError(f"{preset.path} has no table {', '.join(missing)}; it has {there}")
    kinds: dict[str, Job] = {}  # of no seed yet
    settings: dict[int, PulSetting] = {}
    for number in tables:
        cfg = preset.config(number, options)
        pul_cfg = preset.config(number, options, pul=True) if preset.pul else cfg
        settings[number] = pul = PulSetting.from_config(pul_cfg)
        rows = table_rows(number, all_variants)
        mine = [row for row in rows if not is_pul(row) or not preset.pul]
        _add(kinds, data_name(cfg), number, wanted_rows(mine, pul), cfg, preset.path)
        others = wanted_rows([row for row in rows if row not in mine], pul)
        if others:
            _add(kinds, f"{data_name(cfg)}-pul", number, others, pul_cfg, preset.path)
    jobs = [_seeded(kind, seed, out, root) for seed in seeds for kind in kinds.values()]
    return Plan(jobs, settings)


def data_name(cfg: CfgNode) -> str:
    """``SOURCES-to-TARGET``, a folder's name."""
    return f"{'+'.join(cfg.data.sources)}-to-{'+'.join(cfg.data.targets)}"


def _add(
    kinds: dict[str, Job], key: str, number: int, rows: tuple[str, ...], cfg: CfgNode, where: Path
) -> None:
    """Enters a table's need, together with that of earlier tables on the same data."""
    first = kinds.get(key)
    if first is None:
        kinds[key] = Job(key, 0, (number,), rows, cfg)
        return
    mine = settings_of(cfg)
    differing = [name for name, value in first.settings.items() if mine[name] != value]
    if differing:
        raise ValueError(
            f"{where}: tables {first.tables[0]} and {number} are both {key}, but differ in "
            f"{', '.join(differing)}. Tables with the same data share their runs, so their "
            "settings must agree"
        )
    both = tuple(dict.fromkeys((*first.rows, *rows)))
    kinds[key] = replace(first, tables=(*first.tables, number), rows=both)


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
