"""Runs what the tables need, reuses what is there, and fills the tables."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import NoneType

from tabulate import tabulate
from yacs.config import CfgNode

import embae_plugin
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.records import load_data
from embae_plugin.evaluation.score_table import Row, write_text
from embae_plugin.lab.reproduction.jobs import Job, Plan, is_pul, settings_of, variants_for
from embae_plugin.lab.reproduction.published import TABLES
from embae_plugin.lab.reproduction.tables import TableResult, data_differences, fill

logger = logging.getLogger(__name__)

RECORD = "reproduced.json"  # in a run's folder: its scores, and what they were made with
Execute = Callable[[CfgNode], list[Row]]


@dataclass
class Outcome:
    """What is known so far of one run, over its seeds."""

    # How many images the sources have, and the target's training split, query and gallery.
    images: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""  # of the images' names, sizes and labels
    missing: str = ""  # why there is nothing to run on
    failed: str = ""  # why a seed could not be finished
    scores: dict[int, dict[str, Row]] = field(default_factory=dict)  # seed to variant to row


def look_at_data(cfg: CfgNode) -> Outcome:
    """Counts and names the images of a run, or says what is missing, and where it was looked for.

    No image is read, but a built-in data set that is not there is drawn.
    """
    try:
        data = load_data(cfg)
    except FileNotFoundError as error:
        return Outcome(missing=str(error))
    parts = {"source": data.source, "training": data.target_train, "query": data.query,
             "gallery": data.gallery}
    prints = ["-" if part is None else part.fingerprint() for part in parts.values()]
    counts = {name: 0 if part is None else len(part) for name, part in parts.items()}
    return Outcome(counts, " ".join(prints))


@lru_cache(1)
def code_fingerprint() -> str:
    """A hash of this package's source, as it was when this was first called."""
    total = hashlib.blake2b(digest_size=12)
    package = Path(embae_plugin.__file__).parent
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _made_with(job: Job, images: str) -> str:
    """A name for what a run's scores depend on: settings, images and code."""
    settings = json.dumps(settings_of(job.cfg), sort_keys=True)
    everything = "\n".join([settings, images, code_fingerprint()])
    return hashlib.blake2b(everything.encode(), digest_size=12).hexdigest()


def _checked(row: Row) -> Row:
    """A row of scores as it is made: a variant, and numbers; else ValueError."""
    odd = [key for key, value in row.items()
           if not isinstance(value, str if key == "variant" else (int, float, NoneType))]
    if odd or not row.keys() >= {"variant", "rank1"}:
        raise ValueError(f"a row of scores is {row!r}")
    return row


def kept_scores(job: Job, images: str) -> list[Row]:
    """The rows that an earlier call left, if it made them with what would make them now."""
    path = job.folder / RECORD
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["made_with"] == _made_with(job, images):
            return [_checked(row) for row in record["rows"]]
        logger.warning("%s was made with other settings, images or code; the run is scored again, "
                       "by what its folder holds of finished stages", path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s is damaged, or of an older kind (%r); the run is scored again", path,
                       error)
    return []


def run_job(job: Job, execute: Execute, images: str) -> tuple[list[Row], bool]:
    """The job's scores, and whether they had to be made: if an earlier call has them, not.

    ``execute`` trains a configuration, from its checkpoints where it was stopped, and returns its
    rows; ``images`` is their fingerprint.
    """
    rows = kept_scores(job, images)
    there = {str(row["variant"]) for row in rows}
    if set(job.rows) <= there:
        logger.info("%s: done before, scores read", job.folder)
        return rows, False
    cfg = job.cfg.clone()
    # What earlier calls made stays in results.json too; it is only scored again.
    cfg.embae.variants = variants_for(there.union(job.rows))
    rows = execute(cfg)
    record = {"made_with": _made_with(job, images), "rows": rows}
    write_text(job.folder / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return rows, True


def reproduce(
    plan: Plan, execute: Execute, publish: Callable[[Mapping[str, Outcome]], None]
) -> dict[str, Outcome]:
    """Runs the jobs in order; returns ``Job.key`` to outcome.

    One whose data are missing, or whose files fail, stops no other. ``publish`` is called with
    what is known after each job that trained, and at the end.
    """
    outcomes: dict[str, Outcome] = {}
    for number, job in enumerate(plan.jobs, start=1):
        if job.key not in outcomes:
            outcomes[job.key] = look_at_data(job.cfg)
        outcome = outcomes[job.key]
        if outcome.missing or outcome.failed:
            continue
        logger.info("run %d of %d: %s, seed %d, for table %s", number, len(plan.jobs), job.key,
                    job.seed, ", ".join(map(str, job.tables)))
        try:
            rows, trained = run_job(job, execute, outcome.fingerprint)
            outcome.scores[job.seed] = {str(row["variant"]): row for row in rows}
            if trained and number < len(plan.jobs):
                publish(outcomes)
        except OSError as error:  # weights that cannot be fetched, a full disk
            outcome.failed = str(error)
            logger.error("%s, seed %d: %s", job.key, job.seed, error)
    publish(outcomes)
    return outcomes


def dry_run(plan: Plan) -> str:
    """A line for each run: what it is for, and whether it is done, begun or to be run."""
    outcomes, body = dict[str, Outcome](), []
    for job in plan.jobs:
        built_in = {*job.cfg.data.sources, *job.cfg.data.targets} & set(SPECS)
        root = Path(job.cfg.data.root).expanduser()
        if job.key not in outcomes:  # built-in data are not drawn for this
            there = all((root / name).is_dir() for name in built_in)
            outcomes[job.key] = look_at_data(job.cfg) if there else Outcome()
        scored = {row["variant"] for row in kept_scores(job, outcomes[job.key].fingerprint)}
        state = "begun" if any(job.folder.glob("*/last.pth")) else "to run"
        state = "data missing" if outcomes[job.key].missing else state
        state = "done" if set(job.rows) <= scored else state
        body.append([job.folder, ", ".join(map(str, job.tables)), ", ".join(job.rows), state])
    left = sum(state != "done" for *_, state in body)
    table = tabulate(body, ["run", "tables", "scores", "state"], disable_numparse=True)
    missing = [f"{key} cannot be run: {o.missing}" for key, o in outcomes.items() if o.missing]
    return "\n".join([table, f"{left} of {len(body)} runs are left.", *missing])


def table_results(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[TableResult]:
    """The planned tables, filled with what is known, in the paper's order."""
    return [_result(number, plan, outcomes) for number in sorted(plan.rows)]


def _result(number: int, plan: Plan, outcomes: Mapping[str, Outcome]) -> TableResult:
    table, rows, pul = TABLES[number], plan.rows[number], plan.pul[number]
    jobs = [job for job in plan.jobs if number in job.tables]  # any of PUL alone come last
    known = {job.key: outcomes.get(job.key, Outcome()) for job in jobs}
    main, first = jobs[0].cfg.data, known[jobs[0].key]
    scores: dict[int, dict[str, Row]] = {}
    for outcome in known.values():
        for seed, found in outcome.scores.items():
            scores.setdefault(seed, {}).update(found)
    seeds = tuple(dict.fromkeys(job.seed for job in jobs))
    done = tuple(seed for seed in seeds if seed in scores)
    target = str(main.targets[0])
    differs = data_differences(table, main.sources, target, first.images)
    notes = [f"{key} failed: {outcome.failed}" for key, outcome in known.items() if outcome.failed]
    notes += [pul.note()] if pul.note() and any(is_pul(row) for row in rows) else []
    filled = (fill(row, rows, table.columns, [scores[seed] for seed in done], pul, not differs)
              for row in rows)
    return TableResult(number, tuple(main.sources), target, seeds, done, tuple(filled), differs,
                       first.missing, tuple(notes))
