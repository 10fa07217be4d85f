"""Two runs in one place: the second is told who is there; what a dead one left is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embae_plugin.commands import extract, train
from embae_plugin.commands.job_folder import JobFolder
from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.one_at_a_time import LOCK, only_one
from embae_plugin.settings.config import load_config
from tests.crops_world import write_checkpoint, write_crops

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.one_at_a_time import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(lock: Path) -> subprocess.Popen:
    """A process that holds a lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def taken(tmp_path):
    """Takes locks by another process each."""
    processes = []

    def take(lock: Path) -> subprocess.Popen:
        processes.append(holder(lock))
        return processes[-1]

    yield take
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_who_holds_it_is_told_and_a_dead_one_holds_nothing(tmp_path, taken, end):
    lock = tmp_path / "run" / LOCK
    process = taken(lock)
    with pytest.raises(ValueError, match=(
        rf"another run is at work on {tmp_path / 'run'}: process {process.pid} on .*, since 2"
    )), only_one(lock):
        pass
    process.send_signal(end)
    process.wait()
    assert lock.is_file()  # left behind
    with only_one(lock):
        assert f"process {os.getpid()} on" in lock.read_text(encoding="utf-8")
    assert not lock.exists()


def test_one_process_cannot_take_it_twice_but_one_after_the_other(tmp_path):
    lock = tmp_path / LOCK
    for _ in range(2):
        with only_one(lock), pytest.raises(ValueError, match="this very process"), only_one(lock):
            pass
    with pytest.raises(KeyError), only_one(lock):
        raise KeyError
    with only_one(lock), only_one(tmp_path / "other" / LOCK):
        pass


def test_many_that_start_at_once_take_turns(tmp_path):
    """Each adds one to a number while it holds the lock."""
    code = """
import sys, time
from pathlib import Path
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.one_at_a_time import only_one
number, done = Path(sys.argv[1]) / "number", 0
while done < 30:
    try:
        with only_one(Path(sys.argv[1]) / "lock"):
            now = int(number.read_text())
            number.write_text(str(now + 1))
            done += 1
    except ValueError:
        pass
"""
    (tmp_path / "number").write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
                 for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "90" and not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_one(tmp_path / LOCK):
        pass
    assert "this file system has no locks" in caplog.text


@pytest.fixture
def given(tmp_path):
    write_crops(tmp_path / "crops", 2, 2, 1)
    write_checkpoint(tmp_path / "m.pth")
    return ["--images", f"{tmp_path}/crops", "--checkpoint", f"{tmp_path}/m.pth"]


@pytest.mark.parametrize(("verb", "out", "lock"), [
    ("adapt", "out", f"out/{LOCK}"), ("extract", "e.npz", f".e.npz{LOCK}"),
])
def test_commands_refuse_to_be_the_second(tmp_path, given, taken, capsys, verb, out, lock):
    process = taken(tmp_path / lock)
    command = [verb, *given, "--out", f"{tmp_path}/{out}"]
    for force in ([], ["--force"]):
        assert main([*command, *force]) == 2
        error = capsys.readouterr().err
        assert f"at work on {tmp_path}/{out}: process {process.pid}" in error
    process.kill()
    process.wait()
    if verb == "extract":
        assert main(command) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "e.npz", "m.pth"]


def test_training_refuses_to_be_the_second_and_scoring_does_not(tmp_path, taken, monkeypatch):
    taken(tmp_path / LOCK)
    monkeypatch.setattr(train, "_run_config", lambda cfg, command: ["scored"])
    cfg = load_config("synthetic", ["data.save_dir", str(tmp_path)])
    with pytest.raises(ValueError, match=f"another run is at work on {tmp_path}"):
        train.run_config(cfg)
    cfg.test.evaluate = True
    assert train.run_config(cfg) == ["scored"]


def test_a_folder_that_another_run_has_filled_meanwhile_is_not_filled_again(tmp_path):
    def folder() -> JobFolder:
        return JobFolder(tmp_path / "out", ["done"], {"a": 1})

    one, other = folder(), folder()
    assert one.found() is None and other.found() is None
    with one.filling([("x.png", "damaged")], anew=True):
        assert folder().found() == [("x.png", "damaged")]
    (tmp_path / "out" / "done").touch()
    with pytest.raises(ValueError, match="the results of a finished run"), other.filling([], True):
        pass
    with other.filling([], anew=True, force=True):
        assert not (tmp_path / "out" / "done").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10**5, '{"settings": {}, "notes": []}',
                                  '{"settings": {"a": 1}, "notes": {"skipped": [["x"]]}}'])
def test_notes_that_are_damaged(tmp_path, text):
    folder = JobFolder(tmp_path, ["done"], {"a": 1})
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "job.json").write_text(text)
    with pytest.raises(ValueError, match=r"job\.json is damaged: start anew with --force"):
        folder.found()


def test_a_block_cut_short_by_a_power_cut_is_made_again_alone(tmp_path, given, monkeypatch):
    out, made, write = tmp_path / "e.npz", [], extract.write_embeddings
    command = ["extract", *given, "--out", str(out), "--block", "2"]

    def stopped_at_the_last(path, parts):
        if Path(path) == out and len(made) < 3:
            raise KeyboardInterrupt
        made.append(Path(path).name)
        return write(path, parts)

    monkeypatch.setattr(extract, "write_embeddings", stopped_at_the_last)
    assert main(command) == 130
    first = tmp_path / ".e.npz.parts" / "000000.npz"
    first.write_bytes(first.read_bytes()[:100])
    assert main(command) == 0
    assert made == ["000000.npz", "000001.npz", "000000.npz", "e.npz"]
    assert len(read_embeddings(out)) == 4
