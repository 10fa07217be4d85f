"""Draws a built-in data set into a folder, completely or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from embae_plugin.data.datasets.catalog import SetSpec, find_spec
from embae_plugin.data.datasets.shots import names, plan, scaled, take
from embae_plugin.data.parallel import can_fork, cpu_count, in_parallel
from embae_plugin.progress import progress

# To be raised whenever the pictures of some seed change, however slightly.
VERSION = 3
METADATA = "generator.json"


def generate(
    name: str, root: str | Path, scale: float = 1.0, seed: int = 0, workers: int | None = None
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
    if not in_use(folder):
        # A name of its own for every attempt: processes that start together can't collide.
        draft = folder.parent / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            _draw(spec, seed, draft, workers)
            metadata = {"name": name, "generator": VERSION, "seed": seed, "scale": scale}
            (draft / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, folder)
        except OSError:
            if not in_use(folder):  # or else somebody was faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    read_metadata(folder, scale, seed)
    return folder


def read_metadata(
    folder: Path, scale: float | None = None, seed: int | None = None
) -> dict[str, Any]:
    """What ``folder`` says about itself, checked against this generator.

    scale, seed: what the caller wants, None for whatever is there.
    Raises ValueError if the folder is not what is wanted: made by something else, by another
    version of the generator, or for another scale or seed.
    """
    remedy = f"Remove or rename {folder}, or use another root, and it will be drawn anew."
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        found = {key: metadata[key] for key in ("generator", "seed", "scale")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} was not made by the generator of the built-in data sets: it has no "
            f"readable {METADATA}. {remedy}"
        ) from error
    for key, value in {"generator": VERSION, "seed": seed, "scale": scale}.items():
        if value is not None and found[key] != value:
            raise ValueError(
                f"{folder} was drawn with {key} {found[key]}, but {key} {value} is wanted. {remedy}"
            )
    return found


def in_use(folder: Path) -> bool:
    """Whether ``folder`` is there and not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _draw(spec: SetSpec, seed: int, draft: Path, workers: int | None) -> None:
    """Takes all shots into ``draft``, in parallel."""
    shots = plan(spec, seed)
    paths = [draft / name for name in names(spec, shots)]

    def draw(index: int) -> None:
        paths[index].parent.mkdir(parents=True, exist_ok=True)
        take(spec, seed, shots[index]).save(paths[index], quality=85, compress_level=1)

    # Threads would gain nothing, since drawing holds Python's lock.
    workers = (workers or min(cpu_count(), 8)) if can_fork() else 1
    many = range(len(shots))
    drawn = in_parallel(draw, len(many), workers, True) if workers > 1 else map(draw, many)
    list(progress(drawn, f"drawing {spec.name}", len(many)))
