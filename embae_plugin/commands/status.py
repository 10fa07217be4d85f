"""Tells how far a run is, whether it is still at work, and what command resumes it.

  embae status log/run            of embae train (data.save_dir)
  embae status adapted            of embae adapt (--out)
  embae status embeddings.npz     of embae extract (--out)

Reads the checkpoints' headers and writes nothing; safe while the run is at work.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.commands.extract import done_parts, parts_of
from embae_plugin.commands.job_folder import WORK, job_command
from embae_plugin.commands.train import COMMAND
from embae_plugin.methods.registry import BASELINE, chain, rows
from embae_plugin.methods.run_settings import runs
from embae_plugin.models.bundle import ADAPTED, STAGE
from embae_plugin.models.weight_files import read_file
from embae_plugin.progress import in_words
from embae_plugin.settings.config import load_config

_TAIL = 20_000  # bytes of a log that are read

Found = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("path", help="data.save_dir of embae train, --out of adapt or extract")
    parser.add_argument("--json", action="store_true", help="print JSON instead")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    found = status(arguments.path)
    sys.stdout.write(f"{json.dumps(found, indent=1) if arguments.json else in_lines(found)}\n")
    return 0


def status(path: str | Path) -> Found:
    """How far the run at ``path`` is.

    Returns:
        ``path``, ``verb``, ``finished``; ``stages``, each with ``stage``, ``done``, ``written``
        and, of one that was begun, ``phase``, ``epoch``, ``epochs``, ``step``, ``steps``;
        ``parts`` and ``parts_done`` of extract; ``written``, when anything was last kept;
        ``log`` and ``log_written``, the last line; ``resume``, a shell command, "" where there
        is nothing to resume or nobody knows how.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: it is no run, or a checkpoint of it is damaged.
    """
    path = Path(path)
    if path.is_file() or parts_of(path).is_dir():
        found = _of_extract(path)
    elif not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name data.save_dir of embae train, or "
                                "--out of embae adapt or embae extract")
    elif any((path / name).exists() for name in (WORK, ADAPTED, "adapt.log")):
        found = _of_adapt(path)
    else:
        found = _of_train(path)
    return {"path": str(path), **found, "resume": "" if found["finished"] else found["resume"]}


def _of_extract(out: Path) -> Found:
    done, total, command = done_parts(out)
    parts = parts_of(out)
    finished = out.is_file() and (not parts.is_dir() or _time(out) > _time(parts))
    files = [out] if finished else [*parts.glob("[0-9]*.npz")]
    return {"verb": "extract", "finished": finished, "parts": total, "parts_done": done,
            "written": _latest(files), "resume": command}


def _of_adapt(out: Path) -> Found:
    work = out / WORK
    finished = (out / ADAPTED).is_file() and job_command(out) is None
    stages = [] if finished else [*_stages(work, ())]
    files = [out / ADAPTED] if finished else work.glob(f"*/{STAGE}")
    return {"verb": "adapt", "finished": finished, "stages": stages, "written": _latest(files),
            **_log(out / "adapt.log"), "resume": job_command(out) or ""}


def _of_train(out: Path) -> Found:
    kept, command = out / "config.yaml", out / COMMAND
    if not (kept.is_file() or (out / "train.log").is_file() or any(out.glob(f"*/{STAGE}"))):
        raise ValueError(f"{out} holds no run of embae train, adapt or extract")
    cfg = load_config(str(kept)) if kept.is_file() else None
    stages = [*_stages(out, () if cfg is None else _planned(cfg))]
    checkpoints, results = [*out.glob(f"*/{STAGE}")], out / "results.json"
    scored = results.is_file() and all(_time(results) >= _time(file) for file in checkpoints)
    finished = bool(stages) and all(stage["done"] for stage in stages) and (
        scored or (cfg is not None and not cfg.data.targets)
    )
    resume = f"embae train --config-file {shlex.quote(str(kept))}" if kept.is_file() else ""
    if command.is_file():
        resume = command.read_text(encoding="utf-8").strip()
    return {"verb": "train", "finished": finished, "stages": stages,
            "written": _latest(checkpoints),
            **_log(out / "train.log"), "resume": resume}


def _planned(cfg: CfgNode) -> Iterator[str]:
    """The folders of the stages that a configuration runs, in order."""
    for name in cfg.embae.variants if cfg.loss.name == "embae" else ():
        if name not in rows():  # of a plugin that is not loaded here
            continue
        for row in chain(name, cfg):
            given = row.name == BASELINE and "embedding" not in cfg.embae.stages
            if row.method is not None and runs(row, cfg) and not given:
                yield row.folder


def _stages(folder: Path, planned: Iterable[str]) -> Iterator[Found]:
    """What is known of each stage: those begun, in their order, then the rest."""
    files = sorted(folder.glob(f"*/{STAGE}"), key=_time)  # each ends before the next begins
    begun = {file.parent.name: file for file in files}
    for name in dict.fromkeys([*begun, *planned]):
        yield {"stage": name, **(_position(begun[name]) if name in begun else {"done": False})}


def _position(file: Path) -> Found:
    """Where a checkpoint stands; its weights are not read."""
    payload = read_file(file, mapped=True)
    if not isinstance(payload, dict) or "position" not in payload:
        raise ValueError(f"{file} is no checkpoint of a stage")
    written, done = _latest([file]), payload.get("done") is True
    if done:
        return {"done": True, "written": written}
    number, epoch, step = payload["position"]
    plan = payload.get("plan") or []  # absent in files of earlier releases
    name, epochs, steps = plan[number] if number < len(plan) else ("", None, None)
    return {"done": False, "written": written, "phase": name, "epoch": epoch + 1,
            "epochs": epochs, "step": step, "steps": steps}


def _log(file: Path) -> Found:
    """The last line of a log, and when it was written."""
    if not file.is_file():
        return {"log": "", "log_written": None}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    stamped = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d ", line)]
    return {"log": stamped[-1] if stamped else "", "log_written": _latest([file])}


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _latest(files: Iterable[Path]) -> str | None:
    """When the newest was written, as ISO 8601 with the time zone; None if there is none."""
    times = [_time(file) for file in files if file.is_file()]
    return datetime.fromtimestamp(max(times)).astimezone().isoformat() if times else None


def _ago(when: str | None) -> str:
    if when is None:
        return "never"
    seconds = max(0.0, time.time() - datetime.fromisoformat(when).timestamp())
    return f"{in_words(seconds)} ago ({when[:19].replace('T', ' ')})"


def _line(stage: Mapping[str, Any]) -> str:
    if stage["done"]:
        return f"  {stage['stage']}: done"
    if "epoch" not in stage:
        return f"  {stage['stage']}: not begun, or no checkpoint yet"
    epoch, step = (f"{key} {stage[key]}" + (f" of {stage[f'{key}s']}" if stage[f"{key}s"] else "")
                   for key in ("epoch", "step"))
    phase = f"{stage['phase']}, " if stage["phase"] else ""
    return f"  {stage['stage']}: {phase}{epoch}, {step}"


def in_lines(found: Found) -> str:
    """A status of :func:`status` as plain text."""
    state = "finished" if found["finished"] else "not finished"
    lines = [f"{found['path']}: a run of embae {found['verb']}, {state}"]
    lines += [_line(stage) for stage in found.get("stages", ())]
    if found.get("parts") and not found["finished"]:
        lines.append(f"  {found['parts_done']} of {found['parts']} blocks of crops")
    what = "written" if found["finished"] else "last checkpoint"
    lines.append(f"{what}: {_ago(found['written'])}")
    if found.get("log"):
        lines.append(f"last line of the log: {_ago(found['log_written'])}\n  {found['log']}")
    if not found["finished"]:
        lines.append(f"resumed by (if it is not at work): {found['resume'] or 'the same command'}")
    return "\n".join(lines)
