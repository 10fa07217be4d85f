"""``torchrun tools/train.py`` on two processes, from the command line to the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from embae_plugin.training.loop import PROCESSES
from embae_plugin.training.run_identity import load_checkpoint
from tests.commands.tiny_run import TINY
from tests.zoo_files import write_viper

ROOT = Path(__file__).parents[2]


def torchrun(root: Path, out: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """The tiny run in two processes."""
    options = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    pairs = [text for pair in options.items() for text in pair]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "tools/train.py", "-s", "viper", "-t", "market1501", "--root", str(root),
         "data.save_dir", str(out), *pairs],
        cwd=ROOT, text=True, capture_output=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def test_two_processes_train_and_write_once(market_root, tmp_path):
    write_viper(market_root, identities=12)
    done = torchrun(market_root, tmp_path / "run", embae__variants="['cam']")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("scores on market1501") == 1
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert log.count("scores on market1501") == 1 and "processes: 2" in log
    rows = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["variant"] for row in rows] == ["baseline", "cam"]
    payload = load_checkpoint(tmp_path / "run" / "embedding" / "last.pth")
    assert payload["done"] and payload["identity"][PROCESSES] == 2
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("verb", ["data", "benchmark"])
def test_other_verbs_refuse_several_processes(monkeypatch, capsys, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    words = {"data": ["data", "check", "--root", "."], "benchmark": ["benchmark", "--quick"]}[verb]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"embae (rank 1 of 2): {verb} runs in one process: start it without torchrun" in error
