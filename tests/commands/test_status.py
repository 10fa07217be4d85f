"""`embae status` on runs of three verbs, at work, interrupted and finished."""

from __future__ import annotations

import json
import shlex
import signal

import pytest

from embae_plugin.commands import adapt, extract
from embae_plugin.commands.job_folder import JobFolder
from embae_plugin.commands.main import main
from embae_plugin.methods.distill import DistillPhase
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase
from embae_plugin.models.bundle import ADAPTED, load_checkpoint, save_checkpoint
from tests.commands.tiny_run import train
from tests.crops_world import write_checkpoint, write_crops


def status(path, capsys) -> dict:
    capsys.readouterr()
    assert main(["status", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["status", str(path)]) == 0
    found["text"] = capsys.readouterr().out
    return found


def words_of(command: str) -> list[str]:
    """The words for :func:`main` of a shell command ``cd … && embae …``."""
    folder, words = command.split(" && ")
    assert folder.startswith("cd /")
    assert shlex.split(words)[0] == "embae"
    return shlex.split(words)[1:]


def stop_at(monkeypatch, phase, count: int) -> None:
    """The phase's ``count``-th step ends as with Ctrl-C; once."""
    true, left = phase.loss, [count]

    def loss(self, batch):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return true(self, batch)

    monkeypatch.setattr(phase, "loss", loss)


def test_a_training_that_was_interrupted_and_resumed(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    stop_at(monkeypatch, ReconstructionPhase, 2)
    assert train(root, out, embae__variants="['baseline', 'new']") == 130
    found = status(out, capsys)
    assert (found["verb"], found["finished"]) == ("train", False)
    first, second, third = found["stages"]
    assert (first["stage"], first["done"]) == ("embedding", True)
    assert second["stage"] == "autoencoder-common" and not second["done"]
    assert (second["epochs"], second["phase"]) == (2, "autoencoder") or second["phase"]
    done = (second["epoch"] - 1) * second["steps"] + second["step"]
    assert done == 2
    assert third == {"stage": "transfer-new", "done": False}
    assert "autoencoder-common: " in found["text"] and "not begun" in found["text"]
    assert found["written"] and found["log"] and "epoch" in found["text"]
    assert main(words_of(found["resume"])) == 0
    found = status(out, capsys)
    assert found["finished"] and found["resume"] == ""
    assert all(stage["done"] for stage in found["stages"])


def test_a_finished_run_of_a_release_that_kept_no_command(copied, capsys):
    (copied / "command.txt").unlink()
    assert status(copied, capsys)["finished"]
    payload = load_checkpoint(copied / "transfer-cam" / "last.pth")
    del payload["plan"]
    payload = {**payload, "done": False, "position": [0, 0, 1]}
    save_checkpoint(copied / "transfer-cam" / "last.pth", payload)
    found = status(copied, capsys)
    assert not found["finished"] and "transfer-cam: epoch 1, step 1" in found["text"]
    assert found["resume"] == f"embae train --config-file {copied}/config.yaml"


def test_weights_are_not_read(copied, capsys, monkeypatch):
    from embae_plugin.models import weight_files

    def load(path, **options):
        assert options["mmap"] and options["weights_only"]
        return true(path, **options)

    true = weight_files.torch.load
    monkeypatch.setattr(weight_files.torch, "load", load)
    assert status(copied, capsys)["stages"]


@pytest.fixture
def crops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_crops(tmp_path / "crops", 4, 2, 3)
    return ["--images", "crops", "--checkpoint", str(write_checkpoint(tmp_path / "m.pth"))]


def test_an_adaptation(crops, tmp_path, capsys, monkeypatch):
    settings = ["embae.adapt.flip_fall", "9", "embae.adapt.method", "norm",
                "embae.distill.batch_size", "6", "embae.embedding.precision", "float32"]
    command = ["adapt", *crops, "--out", "out", *settings]
    stop_at(monkeypatch, DistillPhase, 3)
    assert main(command) == 130
    found = status("out", capsys)
    assert (found["verb"], found["finished"]) == ("adapt", False)
    norm, plain = found["stages"]
    assert (norm["stage"], norm["done"]) == ("norm-trunk", True)
    assert (plain["phase"], plain["epoch"], plain["step"], plain["steps"]) == ("plain", 1, 3, 4)
    assert "  norm-plain: plain, epoch 1 of 3, step 3 of 4" in found["text"]
    assert words_of(found["resume"]) == command
    true = adapt.save_bundle

    def stopped_at_the_last(path, bundle):
        true(path, bundle)
        if path.name == ADAPTED:
            raise KeyboardInterrupt

    monkeypatch.setattr(adapt, "save_bundle", stopped_at_the_last)
    assert main(command) == 130 and not status("out", capsys)["finished"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0
    found = status("out", capsys)
    assert found["finished"] and found["resume"] == "" and "written to out" in found["log"]


def test_a_folder_that_a_killed_process_has_hardly_begun(crops, tmp_path):
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    (tmp_path / "out" / "adapt.log").touch()
    assert JobFolder("out", ["adapted.pth"], {}).found() is None


def test_an_extraction(crops, capsys, monkeypatch):
    command = ["extract", *crops, "--out", "z.npz", "--block", "5"]
    true, left = extract.embed_records, [3]

    def embed(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(extract, "embed_records", embed)
    assert main(command) == 130
    found = status("z.npz", capsys)
    assert (found["verb"], found["finished"], found["parts_done"], found["parts"]) == (
        "extract", False, 2, 5)
    assert "2 of 5 blocks of crops" in found["text"] and words_of(found["resume"]) == command
    assert main(command) == 0 and status("z.npz", capsys)["finished"]


def test_what_is_no_run(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2 and "holds no run" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "gone")]) == 2
    assert "does not exist" in capsys.readouterr().err


