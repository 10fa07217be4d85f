"""`embae adapt`, killed again and again at any moment, ends with the bits of an undisturbed run.

Five kills here; EMBAE_KILLS=50 for as many.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import sklearn.cluster  # noqa: F401  (imported once, and not by each process)
import torch

import embae_plugin.commands.adapt  # noqa: F401
from embae_plugin.commands.job_folder import job_command
from embae_plugin.commands.main import main
from embae_plugin.commands.status import status
from embae_plugin.models.door import open_model
from embae_plugin.models.weight_files import read_file
from tests.crops_world import write_crops
from tests.faults.world import start
from tests.networks import write_zoo_file

KILLS = int(os.environ.get("EMBAE_KILLS", "5"))
PATIENCE = 300
RESULTS = ("adapted.pth", "plain.pth", "before.npz", "after.npz", "summary.json")
SETTINGS = [
    "embae.adapt.flip_fall", "2", "embae.adapt.largest_cluster", "1",
    "embae.clusters.min_samples", "2", "embae.clusters.k1", "3", "embae.clusters.batch_size", "8",
    "embae.clusters.num_instances", "2", "embae.clusters.trunk_rounds", "3",
    "embae.distill.batch_size", "4", "embae.distill.max_epoch", "2",
    "embae.embedding.precision", "float32",  # not a choice that the clock makes
    "embae.save_interval", "0.01",
]  # fmt: skip


def add(total: Any, value: Any) -> None:
    """Adds whatever a file holds to a hash, to the last bit."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            total.update(f"{key}:".encode())
            add(total, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            add(total, item)
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        array = np.asarray(value)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    else:
        total.update(repr(value).encode())


def outcome(out: Path) -> dict[str, str]:
    """A hash over each result of a finished run, and the names of all files."""
    found = {"files": str(sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file()))}
    for name in RESULTS:
        total, file = hashlib.blake2b(), out / name
        if file.suffix == ".pth":
            add(total, read_file(file))
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                add(total, dict(arrays))
        else:
            content = json.loads(file.read_text(encoding="utf-8"))
            del content["seconds"]
            add(total, content)
        found[name] = total.hexdigest()
    return found


def adapt(world: Path, out: Path) -> None:
    """The command, in a process of its own, whose errors go to ``out``.err."""
    with out.with_suffix(".err").open("a", encoding="utf-8") as sys.stderr:
        words = ["adapt", "--images", str(world / "crops"), "--out", str(out), "--height", "64",
                 "--width", "32", "--checkpoint", str(world / "osnet.pth"), *SETTINGS]
        if code := main(words):
            raise SystemExit(code)


def children_seconds() -> float:
    """What ended processes have taken of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait(process: Any, limit: float) -> None:
    """Until it ends, or has taken ``limit`` seconds of the processor, however busy that is."""
    begun, seen = time.monotonic(), psutil.Process(process.pid)
    while process.is_alive() and time.monotonic() - begun < PATIENCE:
        used = seen.cpu_times()
        if used.user + used.system >= limit:
            return
        process.join(0.02)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> tuple[Path, Path, float]:
    """The world, what an undisturbed run leaves and how many processor seconds it takes."""
    world = tmp_path_factory.mktemp("adapted")
    write_crops(world / "crops", 4, 2, 2)
    write_zoo_file(world / "osnet.pth", seed=3)
    open_model(world / "osnet.pth")  # what is looked up once, each process has from here
    before = children_seconds()
    process = start(adapt, world, world / "whole")
    process.join(PATIENCE)
    assert process.exitcode == 0, (world / "whole.err").read_text(encoding="utf-8")
    return world, world / "whole", children_seconds() - before


def test_killed_at_random_moments_it_ends_with_the_same_bits(adapted, tmp_path):
    world, whole, seconds = adapted
    wanted, said = outcome(whole), (whole / "summary.json").read_text(encoding="utf-8")
    assert "taught to the network, then distilled" in json.loads(said)["method"]["method"]
    dice, kills, runs = random.Random(1), 0, 0
    while kills < KILLS:
        runs += 1
        out, finished = tmp_path / f"run {runs}", False
        while not finished:
            process = start(adapt, world, out)
            wait(process, dice.uniform(0, 0.5 * seconds) if kills < KILLS else float("inf"))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            if out.exists() and any(out.iterdir()):
                status(out)  # can be asked whatever was left
            # Killed once all was written, it has nothing left to do.
            finished = (out / "adapted.pth").is_file() and job_command(out) is None
            assert process.exitcode == (0 if finished else -signal.SIGKILL) or finished, (
                out.with_suffix(".err").read_text(encoding="utf-8"))
        assert outcome(out) == wanted
    print(f"{kills} kills of {runs} runs; undisturbed, one takes {seconds:.1f} s of a core")
