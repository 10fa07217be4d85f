"""Killed, stopped or cut short, a run ends with the bits of one that nothing happened to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embae_plugin.training.run_identity import load_checkpoint
from tests.commands.tiny_run import TINY
from tests.faults.world import STAGES, outcome, run, start
from tests.zoo_files import write_viper

KILLS = 20
PATIENCE = 120


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """(a hash of what an undisturbed run leaves, its seconds, its folder)."""
    out, begun = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    process = start(run, world, out)
    process.join(PATIENCE)
    assert process.exitcode == 0
    return outcome(out), time.monotonic() - begun, out


def test_sigkill_at_twenty_random_moments_changes_no_bit(world, undisturbed, tmp_path):
    wanted, seconds, _ = undisturbed
    dice, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        out = tmp_path / f"run {runs}"
        finished = False
        while not finished:
            process = start(run, world, out)
            # A third of a run on average, so that a run is killed a few times before its end.
            process.join(dice.uniform(0, 0.7 * seconds) if kills < KILLS else PATIENCE)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
                for path in out.glob("*/last.pth"):
                    load_checkpoint(path)  # whole, whenever the blow fell
            finished = process.exitcode == 0
            assert finished or process.exitcode == -signal.SIGKILL
        assert outcome(out) == wanted
        assert [path for path in out.rglob(".*") if path.name.endswith(".pth")] == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_checkpoint_cut_short_is_named_and_its_stage_alone_is_done_again(
    world, undisturbed, tmp_path, share
):
    wanted, _, folder = undisturbed
    out, log = tmp_path / "run", tmp_path / "log"
    subprocess.run(["cp", "-r", str(folder), str(out)], check=True)
    path = out / "autoencoder-camera" / "last.pth"
    content = path.read_bytes()
    path.write_bytes(content[: min(int(share * len(content)), len(content) - 1)])
    process = start(run, world, out, log=log)
    process.join(PATIENCE)
    text = log.read_text(encoding="utf-8")
    assert process.exitcode == 1 and f"ValueError: {path} is " in text
    assert "Remove it to begin stage autoencoder-camera again" in text
    path.unlink()
    first = (out / "embedding" / "last.pth").stat()
    process = start(run, world, out)
    process.join(PATIENCE)
    assert process.exitcode == 0 and outcome(out) == wanted
    assert (out / "embedding" / "last.pth").stat().st_mtime_ns == first.st_mtime_ns


def test_sigterm_finishes_the_step_saves_and_says_how_to_go_on(market_root, tmp_path):
    write_viper(market_root)
    out = tmp_path / "run"
    options = {**TINY, "train.max_epoch": "5000", "embae.save_interval": "0"}
    command = [sys.executable, "tools/train.py", "-s", "viper", "-t", "market1501", "--root",
               str(market_root), "data.save_dir", str(out),
               *(text for pair in options.items() for text in pair)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    last, begun = out / "embedding" / "last.pth", time.monotonic()
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE,
                               text=True)
    while not last.is_file() and process.poll() is None and time.monotonic() - begun < PATIENCE:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert f"embedding stopped; the state is in {last}: the same command goes on" in errors
    assert "Traceback" not in errors
    payload = load_checkpoint(last)
    assert not payload["done"] and payload["position"][1] >= 1


def test_all_stages_leave_a_checkpoint(undisturbed):
    _, _, out = undisturbed
    assert all(load_checkpoint(out / stage / "last.pth")["done"] for stage in STAGES)
