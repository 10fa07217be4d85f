"""``embae doctor`` as a command, and where torch or torchreid do not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from embae_plugin.commands.main import VERBS, main
from embae_plugin.doctor import installation

ROOT = Path(__file__).parents[2]
QUICK = dict.fromkeys(("umap", "sklearn"), "")  # their imports take seconds


def command(broken: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``embae WORDS`` in a fresh interpreter where some modules hold other code."""
    for name, text in broken.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "embae_plugin.commands.main", *words],
        capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def test_a_sound_installation(capsys, market_root, tmp_path, monkeypatch):
    required = [pair for pair in installation.declared() if not pair[1]]
    monkeypatch.setattr(installation, "declared", lambda: required)
    cache = str(tmp_path / "cache")
    assert main(["doctor", "--root", str(market_root), "--cache-dir", cache]) == 0
    said = capsys.readouterr().out
    assert "all that is required works" in said
    assert "OK      torchreid" in said and "data market1501" in said and cache in said


def test_what_was_named_must_work(capsys, tmp_path, monkeypatch):
    required = [pair for pair in installation.declared() if not pair[1]]
    monkeypatch.setattr(installation, "declared", lambda: required)
    (tmp_path / "bad.pth").write_text("no checkpoint")
    arguments = ["--checkpoint", str(tmp_path / "bad.pth"), "--weights", str(tmp_path / "none")]
    assert main(["doctor", "--json", *arguments]) == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found[f"checkpoint {tmp_path / 'bad.pth'}"]["state"] == "broken"
    assert found[f"weights {tmp_path / 'none'}"]["state"] == "missing"
    assert found["torch"]["state"] == "OK"


def test_torch_that_does_not_load(tmp_path):
    broken = {"torch": "raise OSError('libtorch.so: cut')", **QUICK}
    done = command(broken, tmp_path, "doctor", "--root", "x")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    torch = next(n for n, line in enumerate(lines) if line.startswith("broken  torch "))
    assert "libtorch.so: cut" in lines[torch]
    assert lines[torch + 1].strip() == "fix: pip install torch --force-reinstall"
    assert "needs fixing: torch," in lines[-1] and "Traceback" not in done.stderr


def test_other_verbs_say_what_is_wrong_in_one_line(tmp_path):
    done = command({"torch": "raise RuntimeError('cut')"}, tmp_path, "train")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "embae: `embae train` cannot start: cut (`embae doctor` checks the installation)"
    )
    assert "Traceback" not in done.stderr


def test_help_lists_every_verb_without_torch(tmp_path):
    done = command({"torch": "raise ImportError('cut')"}, tmp_path, "--help")
    assert done.returncode == 0 and [verb for verb in VERBS if verb not in done.stdout] == []


def test_torchreid_that_does_not_load(tmp_path):
    done = command({"torchreid": "import a_part_of_torchreid", **QUICK}, tmp_path, "doctor")
    assert done.returncode == 1, done.stderr
    assert "fix: pip install a_part_of_torchreid" in done.stdout
    assert "OK      torch " in done.stdout


def test_an_import_elsewhere_still_fails(tmp_path):
    (tmp_path / "torchreid").mkdir()
    (tmp_path / "torchreid" / "__init__.py").write_text("import a_part_of_torchreid")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", "import embae_plugin"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 1 and "pip install a_part_of_torchreid" in done.stderr
