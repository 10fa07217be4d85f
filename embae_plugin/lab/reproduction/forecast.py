"""What ``embae reproduce --dry-run`` says: each run, its state, and how long it will take."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate
from yacs.config import CfgNode

from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.shots import plan
from embae_plugin.lab.reproduction.estimate import estimated_seconds, measure_speeds
from embae_plugin.lab.reproduction.jobs import Job
from embae_plugin.lab.reproduction.kept_record import Record, read_record
from embae_plugin.lab.reproduction.runner import Images, count_images

logger = logging.getLogger(__name__)


def expected_images(cfg: CfgNode) -> Images:
    """As :func:`count_images`, without drawing a built-in data set that is not there yet.

    Raises:
        FileNotFoundError: a data set is missing; says which folder was looked for.
    """
    names = [*cfg.data.sources, *cfg.data.targets]
    root = Path(cfg.data.root).expanduser()
    if all(name not in SPECS or (root / name).is_dir() for name in names):
        return count_images(cfg)
    images = Counter(source=0, target=0, query=0, gallery=0)
    for name in names:
        if name not in SPECS:
            continue  # a mixture of drawn and real data sets: the real ones are not counted
        counts = Counter(shot.subset for shot in plan(SPECS[name], 0))
        if name in cfg.data.targets:
            images.update(target=counts["train"], query=counts["query"], gallery=counts["gallery"])
        else:
            images.update(source=counts["train"])
    return dict(images)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Forecast:
    """Estimates jobs; machine and data are looked at once for each kind of run."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.records = {job.folder: read_record(job.folder) for job in jobs}
        self._guesses: dict[str, tuple[float, str]] = {}
        self.missing: dict[str, str] = {}

    def _finished(self, job: Job) -> Record | None:
        record = self.records[job.folder]
        return record if record is not None and record.serves(job) else None

    def _whole_run(self, job: Job) -> tuple[float, str]:
        """Seconds of a run from the start, and how that was found."""
        for other in self.jobs:
            record = self._finished(other)
            if other.key == job.key and record is not None:
                return record.seconds, f"as seed {other.seed} took"
        if job.key not in self._guesses:
            images = expected_images(job.cfg)
            logger.info("timing a few steps for %s", job.key)
            seconds = estimated_seconds(job.cfg, images, measure_speeds(job.cfg))
            counts = ", ".join(f"{count:,} {name}" for name, count in images.items())
            self._guesses[job.key] = seconds, f"a few timed steps × the work ({counts} images)"
        return self._guesses[job.key]

    def line(self, job: Job) -> tuple[str, float, str]:
        """State, seconds left at most, and how those were found."""
        if job.key in self.missing:
            return "data missing", 0.0, ""
        if self._finished(job) is not None:
            return "done", 0.0, "scores are read"
        try:
            seconds, how = self._whole_run(job)
        except FileNotFoundError as error:
            self.missing[job.key] = str(error)
            return "data missing", 0.0, ""
        begun = any(job.folder.glob("*/last.pth"))
        return ("begun" if begun else "to run"), seconds, f"at most: {how}" if begun else how

    def text(self) -> str:
        """The table, the sum, and what is missing."""
        body, total = [], 0.0
        for job in self.jobs:
            state, seconds, how = self.line(job)
            total += seconds
            tables = ", ".join(map(str, job.tables))
            shown = duration(seconds) if seconds else "–"
            body.append([job.folder, tables, ", ".join(job.rows), state, shown, how])
        headers = ["run", "tables", "scores", "state", "time", "estimated from"]
        table = tabulate(body, headers=headers, disable_numparse=True,
                         maxcolwidths=[44, None, 24, None, None, 34])  # fmt: skip
        missing = [f"{key} cannot be run: {why}" for key, why in self.missing.items()]
        in_all = f"In all: about {duration(total)} on this machine, as busy as it is."
        return "\n".join([table, in_all, *missing])
