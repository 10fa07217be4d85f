"""Runs what the tables need, reuses what is there, and fills the tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from yacs.config import CfgNode

from embae_plugin.data.records import load_data
from embae_plugin.evaluation.score_table import Row
from embae_plugin.lab.reproduction.jobs import Job, Plan, variants_for
from embae_plugin.lab.reproduction.kept_record import read_record, write_record
from embae_plugin.lab.reproduction.published import TABLES, table_rows
from embae_plugin.lab.reproduction.roles import is_pul
from embae_plugin.lab.reproduction.tables import TableResult, data_differences, fill

logger = logging.getLogger(__name__)

Execute = Callable[[CfgNode], list[Row]]
Images = dict[str, int]


@dataclass
class Outcome:
    """What is known so far of one run, over its seeds.

    Attributes:
        scores: seed to (variant to row of ``results.json``).
        images: how many there are, see :func:`count_images`.
        missing: why there is nothing to run on; ``""``: there is.
        failed: why a seed could not be finished; ``""``: none failed.
    """

    scores: dict[int, dict[str, Row]] = field(default_factory=dict)
    images: Images = field(default_factory=dict)
    missing: str = ""
    failed: str = ""


def count_images(cfg: CfgNode) -> Images:
    """How many images the sources have, and the target's training split, query and gallery.

    Raises:
        FileNotFoundError: a data set is missing; says which folder was looked for.
    """
    data = load_data(cfg)
    parts = {"source": data.source, "target": data.target_train, "query": data.query,
             "gallery": data.gallery}  # fmt: skip
    return {name: 0 if part is None else len(part) for name, part in parts.items()}


def run_job(job: Job, execute: Execute) -> tuple[list[Row], bool]:
    """The job's scores, and whether they had to be trained: if an earlier call has them, not.

    A run that was stopped goes on from its checkpoints, and its time is added up.

    Args:
        execute: trains a configuration and returns its rows, leaving its files in the folder.
    """
    record = read_record(job.folder)
    if record is not None and record.serves(job):
        logger.info("%s: done before, scores read", job.folder)
        return record.rows, False
    rows: list[Row] = []
    before, wanted = 0.0, set(job.rows)
    if record is not None and record.fits(job):
        rows, before = record.rows, record.seconds
        # What earlier calls made stays in results.json too; it is only scored again.
        wanted |= {str(row["variant"]) for row in rows}
    cfg = job.cfg.clone()
    cfg.embae.variants = variants_for(tuple(wanted))
    started = time.monotonic()
    try:
        rows = execute(cfg)
    except KeyboardInterrupt:
        write_record(job, rows, before + time.monotonic() - started)
        raise
    write_record(job, rows, before + time.monotonic() - started)
    return rows, True


def reproduce(
    plan: Plan, execute: Execute, publish: Callable[[Mapping[str, Outcome]], None]
) -> dict[str, Outcome]:
    """Runs the jobs in order. One whose data are missing, or whose files fail, stops no other.

    Args:
        execute: see :func:`run_job`.
        publish: called with what is known so far after each job that trained, and at the end.

    Returns:
        ``Job.key`` to outcome.
    """
    outcomes = {job.key: Outcome() for job in plan.jobs}
    for number, job in enumerate(plan.jobs, start=1):
        outcome = outcomes[job.key]
        _count(job, outcome)
        if not outcome.missing and not outcome.failed:
            logger.info("run %d of %d: %s, seed %d, for table %s", number, len(plan.jobs), job.key,
                        job.seed, ", ".join(map(str, job.tables)))  # fmt: skip
            try:
                rows, trained = run_job(job, execute)
                outcome.scores[job.seed] = {str(row["variant"]): row for row in rows}
                if trained and number < len(plan.jobs):
                    publish(outcomes)
            except OSError as error:  # weights that cannot be fetched, a full disk
                outcome.failed = str(error)
                logger.error("%s, seed %d: %s", job.key, job.seed, error)
    publish(outcomes)
    return outcomes


def _count(job: Job, outcome: Outcome) -> None:
    if outcome.images or outcome.missing:
        return
    try:
        outcome.images = count_images(job.cfg)
    except FileNotFoundError as error:
        outcome.missing = str(error)
        logger.warning("%s cannot be run: %s", job.key, error)


def table_results(
    plan: Plan, outcomes: Mapping[str, Outcome], all_variants: bool = False
) -> list[TableResult]:
    """The planned tables, filled with what is known, in the paper's order."""
    return [_result(number, plan, outcomes, all_variants) for number in sorted(plan.pul)]


def _result(
    number: int, plan: Plan, outcomes: Mapping[str, Outcome], all_variants: bool
) -> TableResult:
    table, rows, pul = TABLES[number], table_rows(number, all_variants), plan.pul[number]
    jobs = plan.serving(number)
    main = jobs[0]
    seeds = tuple(dict.fromkeys(job.seed for job in jobs))
    keys = tuple(dict.fromkeys(job.key for job in jobs))
    scores: dict[int, dict[str, Row]] = {}
    for key in keys:
        for seed, found in outcomes[key].scores.items():
            scores.setdefault(seed, {}).update(found)
    done = tuple(seed for seed in seeds if seed in scores)
    sources, target = tuple(main.cfg.data.sources), str(main.cfg.data.targets[0])
    differs = data_differences(table, sources, target, outcomes[main.key].images)
    note = pul.note() if any(is_pul(row) for row in rows) else ""
    failures = [f"{key} failed: {outcomes[key].failed}" for key in keys if outcomes[key].failed]
    columns = [scores[seed] for seed in done]
    return TableResult(
        number=number, title=table.title, sources=sources, target=target, columns=table.columns,
        wanted=seeds, seeds=done,
        rows=tuple(fill(row, rows, table.columns, columns, pul, not differs) for row in rows),
        differs=differs, missing=outcomes[main.key].missing,
        notes=(*failures, *([note] if note else [])), footnotes=table.footnotes,
    )  # fmt: skip
