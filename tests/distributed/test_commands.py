"""`embae adapt` and `embae extract` on two processes: one's results, written once, resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from embae_plugin import distributed
from embae_plugin.commands import extract as extraction
from embae_plugin.commands.job_folder import WORK
from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.methods import clusters
from embae_plugin.models.camera_norm import of_camera
from embae_plugin.models.door import open_model
from embae_plugin.one_at_a_time import LOCK, only_one
from tests.crops_world import write_checkpoint, write_crops
from tests.distributed.ranks import in_ranks

# Rates so small that rounding, which 27 layers on so few pixels enlarge, stays small.
SETTINGS = [
    "embae.clusters.lr", "1e-7", "embae.clusters.final_lr", "1e-8",
    "embae.distill.lr", "1e-7", "embae.distill.final_lr", "1e-8",
    "embae.save_interval", "0", "embae.adapt.flip_fall", "1", "embae.adapt.largest_cluster", "0.9",
    "embae.adapt.least_kept", "0",
    "embae.clusters.k1", "6", "embae.clusters.k2", "2", "embae.clusters.min_samples", "2",
    "embae.clusters.eps", "0.7", "embae.clusters.batch_size", "8",
    "embae.clusters.num_instances", "2", "embae.clusters.trunk_rounds", "2",
    "embae.distill.batch_size", "8", "embae.distill.max_epoch", "1",
    "embae.embedding.precision", "float32",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A checkpoint, and 5 people on 3 cameras in 3 shots each; one crop is damaged."""
    root = tmp_path_factory.mktemp("world")
    paths = write_crops(root / "crops", people=5, cameras=3, each=3)
    paths[4].write_bytes(b"nothing")
    write_checkpoint(root / "source.pth", seed=1)
    return root


@pytest.fixture(autouse=True, scope="module")
def quick(world) -> Iterator[None]:
    """Tracing takes longer than these networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "embae_plugin.data.feature_bank.freeze",
            lambda trunk, size, device, camera: of_camera(trunk, camera).to(device).eval(),
        )
        patch.chdir(world)
        yield


def words(verb: str, out: Path, *more: str) -> list[str]:
    return [verb, "--images", "crops", "--checkpoint", "source.pth", "--device", "cpu",
            "--out", str(out), *more, *(SETTINGS if verb == "adapt" else [])]


@pytest.fixture(scope="module")
def alone(quick, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert main(words("adapt", out / "adapted")) == 0
    assert main(words("extract", out / "e.npz")) == 0
    return out


def compare(out: Path, alone: Path) -> None:
    """Weights and embeddings to 1e-3, the same summary but for the time."""
    for name in ("adapted.pth", "plain.pth"):
        mine, theirs = (open_model(where / name).model.state_dict() for where in (out, alone))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    for name in ("before.npz", "after.npz"):
        mine, theirs = (read_embeddings(where / name) for where in (out, alone))
        assert mine.paths.tolist() == theirs.paths.tolist()
        np.testing.assert_allclose(mine.embeddings, theirs.embeddings, atol=1e-3)
    mine, theirs = (json.loads((f / "summary.json").read_text()) for f in (out, alone))
    assert mine["history"] and len(mine["history"]) == len(theirs["history"])
    assert "rounds of pseudo-labels" in mine["method"]["method"] == theirs["method"]["method"]
    assert mine["skipped"] == theirs["skipped"] == 1
    assert {p.name for p in out.iterdir()} == {p.name for p in alone.iterdir()}


def test_two_processes_adapt_as_one_and_write_once(alone, tmp_path):
    assert in_ranks(2, main, words("adapt", tmp_path / "two"), joined=False) == [0, 0]
    compare(tmp_path / "two", alone / "adapted")
    log = (tmp_path / "two" / "adapt.log").read_text()
    assert log.count("written to") == 1
    again = in_ranks(2, main, words("adapt", tmp_path / "two"), joined=False)
    assert again == [2, 2]


def test_a_killed_process_ends_the_other_and_the_same_command_resumes(
    alone, tmp_path, monkeypatch, capfd
):
    inner, left = clusters.Rounds.loss, 7

    def loss(self, batch):
        nonlocal left
        left -= 1
        if left == 0 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, batch)

    monkeypatch.setattr(clusters.Rounds, "loss", loss)
    code, dead = in_ranks(2, main, words("adapt", tmp_path / "two"), joined=False)
    assert code == 2 and isinstance(dead, EOFError)
    said = capfd.readouterr().err
    assert "embae (rank 0 of 2): another process of this run has ended" in said
    assert "the same command goes on from there" in said
    assert (tmp_path / "two" / WORK).is_dir()
    monkeypatch.setattr(clusters.Rounds, "loss", inner)
    assert in_ranks(2, main, words("adapt", tmp_path / "two"), joined=False) == [0, 0]
    assert "going on from" in (tmp_path / "two" / "adapt.log").read_text()
    compare(tmp_path / "two", alone / "adapted")


def test_two_processes_extract_what_one_does_and_resume(alone, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(extraction, "BATCH", 4)
    out, inner, left = tmp_path / "e.npz", extraction.embed_records, 2

    def killed(*given):
        nonlocal left
        left -= 1
        if left == 0 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*given)

    monkeypatch.setattr(extraction, "embed_records", killed)
    command = words("extract", out, "--block", "8")
    code, dead = in_ranks(2, main, command, joined=False)
    assert code == 2 and isinstance(dead, EOFError) and not out.exists()
    assert "another process of this run has ended" in capfd.readouterr().err
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".e.npz.parts").iterdir()}
    assert {"000000.npz", "000001.npz", "000002.npz", "000004.npz"} <= set(done)
    monkeypatch.setattr(extraction, "embed_records", inner)
    assert in_ranks(2, main, command, joined=False) == [0, 0]
    mine, theirs = read_embeddings(out), read_embeddings(alone / "e.npz")
    assert mine.paths.tolist() == theirs.paths.tolist() and len(mine) == 44
    np.testing.assert_allclose(mine.embeddings, theirs.embeddings, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"e.npz", "e.npz.skipped.txt"}


@pytest.mark.parametrize(("verb", "out", "lock"), [
    ("adapt", "two", f"two/{LOCK}"), ("extract", "e.npz", f".e.npz{LOCK}"),
])
def test_two_processes_refuse_together_where_another_run_is_at_work(
    quick, tmp_path, capfd, verb, out, lock
):
    with only_one(tmp_path / lock):
        assert in_ranks(2, main, words(verb, tmp_path / out), joined=False) == [2, 2]
    said = capfd.readouterr().err
    assert f"another run is at work on {tmp_path / out}" in said
    assert "(rank 1 of 2): another process of this run has ended" in said
    assert {path.name for path in tmp_path.rglob("*")} <= {"two", "adapt.log"}


def test_a_device_by_number_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("embae_plugin.commands.shared_arguments.pick_device",
                        lambda name: torch.device(name))
    assert main([*words("extract", Path("x.npz")), "--device", "cuda:1"]) == 2
    assert "each of several processes takes the GPU of its own number" in capsys.readouterr().err
