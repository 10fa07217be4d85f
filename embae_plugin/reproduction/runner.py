"""Runs what the tables need, reuses what is there, and keeps the tables' files up to date."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from yacs.config import CfgNode

from embae_plugin.config import VARIANTS
from embae_plugin.data.records import load_data
from embae_plugin.evaluation.report import Row
from embae_plugin.reproduction.jobs import Job, read_record, write_record
from embae_plugin.reproduction.published import TABLES, table_rows
from embae_plugin.reproduction.roles import PUL, variants_of
from embae_plugin.reproduction.tables import TableResult, data_differences, fill

logger = logging.getLogger(__name__)

Execute = Callable[[CfgNode], list[Row]]
Images = dict[str, int]

_PUL_NOTE = (
    "PUL starts from the EmbAE embedding here, on equal terms with EmbAE-cam. The published rows "
    "start from a ResNet-50 of PUL's own."
)


@dataclass
class Outcome:
    """What is known so far of the runs on one choice of data.

    Attributes:
        scores: seed to (variant to row of ``results.json``).
        images: how many there are, see :func:`count_images`.
        missing: why there is nothing to run on; ``""``: there is.
    """

    scores: dict[int, dict[str, Row]] = field(default_factory=dict)
    images: Images = field(default_factory=dict)
    missing: str = ""


def count_images(cfg: CfgNode) -> Images:
    """How many images the sources have, and the target's training split, query and gallery.

    Raises:
        FileNotFoundError: a data set is missing; says which folder was looked for.
    """
    data = load_data(cfg)
    parts = {"source": data.source, "target": data.target_train, "query": data.query,
             "gallery": data.gallery}  # fmt: skip
    return {name: 0 if part is None else len(part) for name, part in parts.items()}


def run_job(job: Job, execute: Execute) -> list[Row]:
    """The job's scores: read if an earlier call has made them all, else trained.

    A run that was stopped goes on from its checkpoints, and its time is added up.

    Args:
        execute: trains a configuration and returns its rows, leaving its files in the folder.
    """
    record = read_record(job.folder)
    if record is not None and record.serves(job):
        logger.info("%s: done before, scores read", job.folder)
        return record.rows
    rows, before = [], 0.0
    variants = set(job.variants)
    if record is not None and record.fits(job):
        rows, before = record.rows, record.seconds
        # What earlier calls made stays in results.json too; it only is scored again.
        variants |= {str(row["variant"]) for row in rows}
    cfg = job.cfg.clone()
    cfg.embae.variants = [v for v in VARIANTS if v in variants]
    started = time.monotonic()
    try:
        rows = execute(cfg)
    except KeyboardInterrupt:
        write_record(job, rows, before + time.monotonic() - started)
        raise
    write_record(job, rows, before + time.monotonic() - started)
    return rows


def reproduce(
    jobs: Sequence[Job], execute: Execute, publish: Callable[[Mapping[str, Outcome]], None]
) -> dict[str, Outcome]:
    """Runs the jobs in order; those whose data are missing are passed over.

    Args:
        execute: see :func:`run_job`.
        publish: called with what is known so far after each job.

    Returns:
        ``Job.data`` to outcome.
    """
    outcomes = {job.data: Outcome() for job in jobs}
    for number, job in enumerate(jobs, start=1):
        outcome = outcomes[job.data]
        if not outcome.images and not outcome.missing:
            try:
                outcome.images = count_images(job.cfg)
            except FileNotFoundError as error:
                outcome.missing = str(error)
                logger.warning("%s cannot be run: %s", job.data, error)
        if not outcome.missing:
            logger.info("run %d of %d: %s, seed %d, for table %s", number, len(jobs), job.data,
                        job.seed, ", ".join(map(str, job.tables)))  # fmt: skip
            rows = run_job(job, execute)
            outcome.scores[job.seed] = {str(row["variant"]): row for row in rows}
        publish(outcomes)
    return outcomes


def table_results(
    jobs: Sequence[Job], outcomes: Mapping[str, Outcome], pul: str, all_variants: bool = False
) -> list[TableResult]:
    """The tables that jobs serve, filled with what is known, in the paper's order."""
    results = []
    for number in sorted({number for job in jobs for number in job.tables}):
        mine = [job for job in jobs if number in job.tables]
        outcome = outcomes[mine[0].data]
        results.append(_result(number, mine, outcome, pul, all_variants))
    return results


def _result(
    number: int, jobs: Sequence[Job], outcome: Outcome, pul: str, all_variants: bool
) -> TableResult:
    table, rows = TABLES[number], table_rows(number, all_variants)
    data = jobs[0].cfg.data
    sources, target = tuple(data.sources), str(data.targets[0])
    differs = data_differences(table, sources, target, outcome.images)
    done = [job.seed for job in jobs if job.seed in outcome.scores]
    scores = [outcome.scores[seed] for seed in done]
    has_pul = PUL in variants_of(rows, pul)
    return TableResult(
        number=number, title=table.title, sources=sources, target=target, columns=table.columns,
        wanted=tuple(job.seed for job in jobs), seeds=tuple(done),
        rows=tuple(fill(row, rows, table.columns, scores, pul, not differs) for row in rows),
        differs=differs, missing=outcome.missing,
        notes=(_PUL_NOTE,) if has_pul and pul == "embedding" else (), footnotes=table.footnotes,
    )  # fmt: skip

