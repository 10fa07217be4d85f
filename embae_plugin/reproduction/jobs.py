"""Which training runs the tables need: those with the same data share one run for each seed.

A run lies in ``OUT/SOURCES-to-TARGET-seedK`` and is what ``embae train`` leaves. Beside its files
stands ``reproduced.json``: with which configuration its scores were made, and how long it took.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin import __version__
from embae_plugin.config import check_config, flatten
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.evaluation.report import Row, write_text
from embae_plugin.reproduction.preset import Preset
from embae_plugin.reproduction.published import table_rows
from embae_plugin.reproduction.roles import variants_of

logger = logging.getLogger(__name__)

RECORD = "reproduced.json"
# What may change between two calls without changing a score.
_ELSEWHERE = ("data.root", "data.save_dir", "data.workers", "train.print_freq", "embae.variants",
              "embae.cache_dir", "embae.image_memory_share", "embae.save_interval")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of one seed.

    Attributes:
        data: ``SOURCES-to-TARGET``, what the tables that share it have in common.
        seed: of the run.
        tables: the numbers of the tables that it serves.
        variants: the scores that they need.
        cfg: a checked configuration with all of that.
    """

    data: str
    seed: int
    tables: tuple[int, ...]
    variants: tuple[str, ...]
    cfg: CfgNode

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.cfg.data.save_dir)


def data_name(cfg: CfgNode) -> str:
    """``SOURCES-to-TARGET``, a folder's name."""
    return f"{'+'.join(cfg.data.sources)}-to-{'+'.join(cfg.data.targets)}"


def _settings(cfg: CfgNode) -> dict[str, Any]:
    return {key: value for key, value in flatten(cfg).items() if key not in _ELSEWHERE}


def plan_jobs(
    preset: Preset,
    tables: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    root: str = "",
    all_variants: bool = False,
    options: Sequence[str] = (),
) -> list[Job]:
    """The runs that ``tables`` need, the first seed of all before the second of any.

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
        raise ValueError(
            f"{preset.path} has no table {', '.join(missing)}; it has "
            f"{', '.join(map(str, preset.tables))}"
        )
    shared: dict[str, tuple[CfgNode, list[int]]] = {}
    for number in tables:
        cfg = preset.config(number, options)
        first, users = shared.setdefault(data_name(cfg), (cfg, []))
        if _settings(first) != _settings(cfg):
            raise ValueError(
                f"{preset.path}: tables {users[0]} and {number} are both {data_name(cfg)}, but "
                f"with different settings: {', '.join(_differing(first, cfg))}. Runs are shared "
                "by their data sets, so settings must agree"
            )
        users.append(number)
    jobs = []
    for seed in seeds:
        for data, (cfg, users) in shared.items():
            rows = [row for number in users for row in table_rows(number, all_variants)]
            jobs.append(
                _job(cfg.clone(), data, seed, tuple(users), variants_of(rows, preset.pul), out, root)
            )
    return jobs


def _differing(one: CfgNode, other: CfgNode) -> list[str]:
    left, right = _settings(one), _settings(other)
    return [key for key in left if left[key] != right[key]]


def _job(
    cfg: CfgNode, data: str, seed: int, tables: tuple[int, ...], variants: tuple[str, ...],
    out: Path, root: str,
) -> Job:  # fmt: skip
    cfg.train.seed = seed
    cfg.data.save_dir = str(out / f"{data}-seed{seed}")
    if root:
        cfg.data.root = root
    elif {*cfg.data.sources, *cfg.data.targets} <= set(SPECS):
        cfg.data.root = str(out / "reid-data")
    cfg.embae.variants = list(variants)
    check_config(cfg)
    if cfg.loss.name != "embae" or not cfg.data.targets:
        raise ValueError("the tables need loss.name embae and a target (data.targets)")
    return Job(data, seed, tables, variants, cfg)


@dataclass
class Record:
    """What ``reproduced.json`` says.

    Attributes:
        settings: the configuration that the scores were made with.
        version: of this package.
        rows: of ``results.json``; empty while the run is not complete.
        seconds: that the run has taken, interruptions left out.
    """

    settings: dict[str, Any]
    version: str
    rows: list[Row]
    seconds: float

    def row(self, variant: str) -> Row | None:
        """The scores of a variant, or None."""
        return next((row for row in self.rows if row["variant"] == variant), None)

    def fits(self, job: Job) -> bool:
        """Whether the scores were made by what the job would run now."""
        # Through JSON, as the record itself: a tuple comes back as a list.
        now = json.loads(json.dumps(_settings(job.cfg)))
        return self.settings == now and self.version == __version__

    def serves(self, job: Job) -> bool:
        """Whether the job's scores are all here."""
        return self.fits(job) and all(self.row(variant) for variant in job.variants)


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none or it cannot be read."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Record(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged (%s); the run is scored again", folder / RECORD, error)
        return None


def write_record(job: Job, rows: list[Row], seconds: float) -> None:
    """Writes ``reproduced.json`` atomically."""
    content = {"settings": _settings(job.cfg), "version": __version__, "rows": rows,
               "seconds": round(seconds, 1)}  # fmt: skip
    write_text(job.folder / RECORD, json.dumps(content, indent=1, allow_nan=False) + "\n")
