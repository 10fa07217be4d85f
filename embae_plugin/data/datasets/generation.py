"""Draws a built-in data set into a folder, completely or not at all."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import secrets
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from embae_plugin.data.datasets.catalog import SetSpec, find_spec
from embae_plugin.data.datasets.shots import Shot, Studio, names, plan, scaled, take_roll

logger = logging.getLogger(__name__)

# To be raised whenever the pictures of some seed change, however slightly.
VERSION = 2
METADATA = "generator.json"
_ROLL = 100


def generate(
    name: str,
    root: str | Path,
    scale: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Draws the data set ``name`` into ``root/name`` and returns that folder.

    The folder appears only when it is complete: it is drawn under another name beside it.
    A folder already there is checked and kept, see :func:`read_metadata`.

    Args:
        name: one of :data:`~embae_plugin.data.datasets.catalog.SPECS`.
        scale: factor on the numbers of people; 1 is the set as published, 0.05 a tiny one.
        seed: the same seed gives the same bytes, whatever the number of workers.
        workers: processes that draw; None for one for each core, at most 8.

    Raises:
        ValueError: an unknown name or impossible numbers, or a folder that holds the set of
            another seed, scale or version of this generator.
    """
    spec = scaled(find_spec(name), scale)
    if seed < 0 or (workers is not None and workers < 1):
        raise ValueError(f"seed {seed} must be >= 0 and workers {workers} >= 1 (or None)")
    folder = Path(root).expanduser().absolute() / name
    if _in_use(folder):
        return _existing(folder, scale, seed)
    shots = plan(spec, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every attempt: processes that start together can't collide.
    draft = folder.parent / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        _draw(spec, seed, shots, draft, workers)
        metadata = {
            "name": name, "generator": VERSION, "seed": seed, "scale": scale,
            "train_ids": spec.train_ids, "counts": dict(Counter(shot.subset for shot in shots)),
        }  # fmt: skip
        (draft / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
        return _publish(draft, folder, scale, seed)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_metadata(
    folder: Path, scale: float | None = None, seed: int | None = None
) -> dict[str, object]:
    """What ``folder`` says about itself, checked against this generator.

    scale, seed: what the caller wants, None for whatever is there.
    Raises ValueError if the folder is not what is wanted: made by something else, by another
    version of the generator, or for another scale or seed.
    """
    remedy = f"Remove or rename {folder}, or use another root, and it will be drawn anew."
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        found = {key: metadata[key] for key in ("generator", "seed", "scale")}
        complete = {"train_ids", "counts"} <= set(metadata)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} was not made by the generator of the built-in data sets: it has no "
            f"readable {METADATA}. {remedy}"
        ) from error
    wanted = {"generator": VERSION, "seed": seed, "scale": scale}
    for key, value in wanted.items():
        if value is not None and found[key] != value:
            raise ValueError(
                f"{folder} was drawn with {key} {found[key]}, but {key} {value} is wanted. {remedy}"
            )
    if not complete:
        raise ValueError(f"{folder / METADATA} lacks the numbers of people and images. {remedy}")
    return dict(metadata)


def _in_use(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _existing(folder: Path, scale: float, seed: int) -> Path:
    read_metadata(folder, scale, seed)
    logger.debug("%s exists already and is kept", folder)
    return folder


def _publish(draft: Path, folder: Path, scale: float, seed: int) -> Path:
    """Gives the finished draft its name, unless somebody else was faster."""
    try:
        if folder.is_dir() and not _in_use(folder):
            folder.rmdir()
        os.replace(draft, folder)
    except OSError:
        if not _in_use(folder):
            raise
        return _existing(folder, scale, seed)
    return folder


def _draw(spec: SetSpec, seed: int, shots: list[Shot], draft: Path, workers: int | None) -> None:
    """Takes all shots into ``draft``, rolls of them in parallel."""
    jobs = [(shot, draft / path) for shot, path in zip(shots, names(spec, shots), strict=True)]
    for directory in {path.parent for _, path in jobs}:
        directory.mkdir(parents=True, exist_ok=True)
    rolls = [jobs[k : k + _ROLL] for k in range(0, len(jobs), _ROLL)]
    workers = min(_default_workers() if workers is None else workers, len(rolls))
    take = partial(take_roll, Studio(spec, seed).prepare())
    bar = tqdm(total=len(jobs), desc=f"drawing {spec.name}", unit="img", disable=None)
    with bar:
        if workers == 1 or not _can_fork():
            for roll in rolls:
                bar.update(take(roll))
            return
        # Forked, not spawned: a worker that imported torch again would start for seconds.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for taken in pool.map(take, rolls):
                bar.update(taken)


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, 8))


def _can_fork() -> bool:
    # A daemon, such as a data loader's worker, may have no children; macOS forks unsafely.
    return sys.platform == "linux" and not multiprocessing.current_process().daemon
