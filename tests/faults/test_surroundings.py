"""Machines that are otherwise: clocks, homes, masks of permissions, processes, names of files."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from embae_plugin.atomic_file import replacing
from embae_plugin.commands.main import main
from embae_plugin.data import image_bank
from embae_plugin.data.camera_rules import list_crops
from embae_plugin.data.datasets.generation import generate
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.models.door import open_model
from tests.crops_world import write_checkpoint, write_crops
from tests.faults.world import outcome, run

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


@pytest.fixture
def given(tmp_path):
    write_crops(tmp_path / "crops", 2, 2, 1)
    write_checkpoint(tmp_path / "m.pth")
    return ["--images", f"{tmp_path}/crops", "--checkpoint", f"{tmp_path}/m.pth"]


def test_a_clock_that_jumps_backwards_changes_nothing(world, tmp_path, monkeypatch):
    run(world, tmp_path / "steady")
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    run(world, tmp_path / "jumping")
    assert outcome(tmp_path / "jumping") == outcome(tmp_path / "steady")


def test_a_home_that_cannot_be_written_to(tmp_path, given):
    """Nothing that a command needs lies there, unless a published model is asked for by name."""
    (tmp_path / "home").write_text("no folder")  # for root as well
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("XDG_", "EMBAE_", "MPL", "HF_", "TORCH"))}
    environment |= {"HOME": f"{tmp_path}/home", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "embae_plugin.commands.main"]
    done = subprocess.run([*program, "extract", *given, "--out", f"{tmp_path}/e.npz"], text=True,
                          env=environment, capture_output=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(read_embeddings(tmp_path / "e.npz")) == 4
    code = "from embae_plugin.models import zoo; zoo.fetch_file = None\n" + \
           "from embae_plugin.commands.main import main; import sys; sys.exit(main())"
    fetch = [sys.executable, "-c", code, "extract", *given[:2], "--checkpoint",
             "torchreid:osnet_x0_25/msmt17", "--out", f"{tmp_path}/f.npz"]
    offline = "def fetch(url, path): path.write_bytes(b'x')\n"
    fetch[2] = code.replace("zoo.fetch_file = None", "exec(" + repr(
        offline + "zoo.fetch_file = fetch\nzoo._checked = lambda *a: 'digest'") + ")")
    done = subprocess.run(fetch, text=True, env=environment, capture_output=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{tmp_path}/home" in done.stderr


@posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_written_has_the_permissions_that_the_mask_leaves(tmp_path, given, mask, mode):
    """Checkpoints, stores of vectors, pages and summaries alike, and folders."""
    before = os.umask(mask)
    try:
        out = tmp_path / "out"
        pairs = ["embae.adapt.method", "norm", "embae.cache_dir", f"{tmp_path}/cache"]
        assert main(["adapt", *given, "--out", str(out), *pairs]) == 0
        assert main(["search", "--query", f"{out}/after.npz", "--gallery", f"{out}/after.npz",
                     "--html", f"{out}/page.html"]) == 0
        (out / "old.txt").write_text("old")
        (out / "old.txt").chmod(0o777)
        with replacing(out / "old.txt") as draft:
            draft.write_text("new")
    finally:
        os.umask(before)
    files = [path for folder in (out, tmp_path / "cache") for path in folder.rglob("*")]
    assert {path.name for path in out.iterdir()} == {  # nothing else of the crops is kept
        "adapted.pth", "plain.pth", "before.npz", "after.npz", "summary.json", "summary.txt",
        "adapt.log", "page.html", "old.txt",
    }
    assert any(path.suffix == ".bin" for path in files)
    for path in files:
        wanted = mode | (mode & 0o444) >> 2 if path.is_dir() else mode
        assert path.stat().st_mode & 0o777 == wanted, path
    assert open_model(out).camera_names == ("cam_a", "cam_b")


def test_where_processes_cannot_be_forked_threads_do_the_same(tmp_path, monkeypatch):
    """As on macOS and Windows, whose processes are spawned."""
    paths = [str(path) for path in write_crops(tmp_path / "crops", 3, 2, 1)]
    wanted = image_bank.ImageBank(paths, 32, 16).images
    drawn = generate("synthetic_target", tmp_path / "forked", 0.02, workers=2)
    monkeypatch.setattr(image_bank, "MANY", 2)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "fork")
    assert np.array_equal(image_bank.ImageBank(paths, 32, 16).images, wanted)
    again = generate("synthetic_target", tmp_path / "here", 0.02, workers=2)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*.jpg"))
    assert files and all((drawn / f).read_bytes() == (again / f).read_bytes() for f in files)


# --- tables that were written on another system ----------------------------------------------


def table_of(folder: Path, *paths: str) -> Path:
    with (folder / "crops.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["path", "camid"], *([path, "gate"] for path in paths)])
    return folder / "crops.csv"


def file_at(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return name


@posix
def test_backslashes_become_slashes_where_the_file_is_found_that_way(tmp_path):
    file_at(tmp_path, "gate/a.jpg")
    odd = file_at(tmp_path, "odd\\name.jpg")  # a name that may have one here
    names = list_crops(table=table_of(tmp_path, "gate\\a.jpg", odd, "not\\there.jpg")).names
    assert names == ("gate/a.jpg", odd, "not\\there.jpg")
    with pytest.raises(ValueError, match=r"crops\.csv, line 3: gate/a\.jpg is on line 2 already"):
        list_crops(table=table_of(tmp_path, "gate/a.jpg", "gate\\a.jpg"))


@posix
@pytest.mark.parametrize("path", ["C:\\crops\\a.jpg", "d:/crops/a.jpg"])
def test_a_drive_of_windows_is_refused_by_its_line(tmp_path, path):
    with pytest.raises(ValueError, match=r"crops\.csv, line 3: .* begins with a drive of Windows"):
        list_crops(table=table_of(tmp_path, "a.jpg", path))
    file_at(tmp_path, "d:/crops/a.jpg")
    if path[0] == "d":  # a folder of that name
        assert list_crops(table=table_of(tmp_path, path)).names == (path,)


@pytest.mark.parametrize(("here", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_found_in_either_form(tmp_path, here, there):
    """macOS takes names apart, others put them together."""
    name = "straße ü/é ガ.jpg"
    file_at(tmp_path, unicodedata.normalize(here, name))
    written = unicodedata.normalize(there, name)
    found = list_crops(table=table_of(tmp_path, written.replace("/", "\\"), "ü.jpg"))
    assert (tmp_path / found.names[0]).is_file() and found.names[1] == "ü.jpg"
