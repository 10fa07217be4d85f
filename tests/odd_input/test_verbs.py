"""Every verb with wrong files, folders and numbers: exit status 2, one message, nothing touched."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from tests.crops_world import picture, write_checkpoint, write_crops
from tests.odd_input.world import JUNK, KINDS, refused, snapshot, wrong_file


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """``m.pth``, ``crops/``, ``crops.csv`` and ``e.npz`` of them, with identities."""
    folder = tmp_path_factory.mktemp("a world")
    paths = write_crops(folder / "crops", 3, 2, 1)
    write_checkpoint(folder / "m.pth")
    lines = [f"{p.relative_to(folder / 'crops')},{p.parent.name},{p.name[:4]}" for p in paths]
    (folder / "crops.csv").write_text("\n".join(["path,camid,pid", *lines]), encoding="utf-8")
    assert main(["extract", "--checkpoint", f"{folder}/m.pth", "--csv", f"{folder}/crops.csv",
                 "--images", f"{folder}/crops", "--out", f"{folder}/e.npz"]) == 0
    return folder


# {m}, {crops}, {e} are good; {bad} is the wrong file, {new} a place to write to.
INPUTS = {
    "adapt checkpoint": "adapt --checkpoint {bad} --images {crops} --out {new}",
    "adapt images": "adapt --checkpoint {m} --images {bad} --out {new}",
    "adapt csv": "adapt --checkpoint {m} --csv {bad} --out {new}",
    "extract checkpoint": "extract --checkpoint {bad} --images {crops} --out {new}.npz",
    "extract images": "extract --checkpoint {m} --images {bad} --out {new}.npz",
    "extract csv": "extract --checkpoint {m} --csv {bad} --out {new}.npz",
    "export checkpoint": "export --checkpoint {bad} --format onnx --out {new}",
    "export check": "export --checkpoint {m} --format torchscript --out {new} --check {bad}",
    "search query": "search --checkpoint {m} --query {bad} --gallery {e}",
    "search checkpoint": "search --checkpoint {bad} --query {crops} --gallery {e}",
    "evaluate config": "evaluate --checkpoint {m} --config-file {bad}",
    "evaluate root": "evaluate --checkpoint {m} --root {bad}",
    "report lists": "report --before {e} --after {e} --out {new} --query {bad} --gallery {bad}",
    "curves": "curves {bad} --out {new}",
    "ablate": "ablate --run {bad}",
    "reproduce preset": "reproduce --preset {bad} --dry-run",
    "data get": "data get viper --root {new} --url {bad}",
}
TABLES = {
    "search query": "search --query {bad} --gallery {e}",
    "search gallery": "search --query {e} --gallery {bad} --json {new}",
    "evaluate query": "evaluate --query {bad} --json {new}",
    "evaluate gallery": "evaluate --query {e} --gallery {bad}",
    "report before": "report --before {bad} --after {e} --out {new}",
    "report after": "report --before {e} --after {bad} --out {new}",
}


def words(command: str, world: Path, **places: str) -> list[str]:
    good = {"m": world / "m.pth", "crops": world / "crops", "e": world / "e.npz"}
    return [word.format(**good, **places) for word in command.split()]


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_inputs(world, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    bad = wrong_file(tmp_path / "in put", kind)
    before = snapshot(tmp_path)
    for command in INPUTS.values():
        refused(capsys, *words(command, world, bad=bad, new=str(tmp_path / "new")))
    made = {name for name in snapshot(tmp_path) if not name.startswith("in put")}
    assert made <= {"new"} and not list(tmp_path.glob("new/*"))  # `data get` makes its root
    after = snapshot(tmp_path / "in put")
    assert after == {k.removeprefix("in put/"): v for k, v in before.items() if "/" in k}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_embedding_files(world, tmp_path, capsys, kind, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    bad = wrong_file(tmp_path, kind, suffix)
    before = snapshot(tmp_path)
    for command in TABLES.values():
        refused(capsys, *words(command, world, bad=bad, new=str(tmp_path / "new")))
    assert snapshot(tmp_path) == before


OUTPUTS = {
    "adapt": "adapt --checkpoint {m} --images {crops} --out {bad}",
    "extract": "extract --checkpoint {m} --images {crops} --out {bad}.npz",
    "export": "export --checkpoint {m} --format torchscript --out {bad}",
    "search json": "search --query {e} --gallery {e} --json {bad}",
    "search html": "search --query {e} --gallery {e} --html {bad}",
    "evaluate": "evaluate --query {e} --json {bad}",
    "curves": "curves {run} --tables {bad}",
}


def write_run(folder: Path, **changes: object) -> Path:
    content = {"target": "t", "sources": ["a"], "seed": 1, "rows": [{"variant": "baseline"}]}
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["below a file", "nul", "folder"])
@pytest.mark.parametrize("verb", OUTPUTS)
def test_places_that_cannot_be_written(world, tmp_path, capsys, kind, verb):
    bad = wrong_file(tmp_path, kind, ".npz" if verb == "extract" else "")
    if kind == "folder":
        (Path(bad) / "of the user").write_bytes(b"mine")
    run = write_run(tmp_path / "run")
    before = snapshot(tmp_path)
    command = OUTPUTS[verb].replace("{bad}.npz", "{bad} --force")
    refused(capsys, *words(command, world, bad=bad, run=str(run)))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [
    "adapt --checkpoint {m} --images {crops} --out {new} --seed -1",
    "adapt --checkpoint {m} --images {crops} --out {new} --seed 100000000000000000000",
    "adapt --checkpoint {m} --images {crops} --out {new} --max-bad nan",
    "adapt --checkpoint {m} --images {crops} --out {new} --min-side 100000000000000000000",
    "extract --checkpoint {m} --images {crops} --out {new}.npz --block 0",
    "extract --checkpoint {m} --images {crops} --out {new}.npz --max-bad -1",
    "extract --checkpoint {m} --images {crops} --out {new}.npz --height -1",
    "extract --checkpoint {m} --images {crops} --out {new}.npz --width 100000000000000000000",
    "extract --checkpoint {m} --images {crops} --out {new}.txt",
    "extract --checkpoint {m} --images {crops} --camera-regex ( --out {new}.npz",
    "export --checkpoint {m} --format onnx --out {new} --check-limit 0",
    "export --checkpoint {m} --format onnx --out {new} --height 1000000000",
    "search --query {e} --gallery {e} --top 0", "search --query {e} --gallery {e} --top -9",
    "search --query {crops} --gallery {e}", "evaluate", "evaluate --query {e} --root x",
    "report --before {e} --after {e} --out {new} --seed -1",
    "report --before {e} --after {e} --out {new} --seed 100000000000000000000",
    "report --before {e} --after {e} --out {new} --map-limit 0",
    "report --before {e} --after {e} --out {new} --length -1",
    "data check nothing --root {crops}", "data get viper --root {new} --url x --md5 zz",
    "reproduce --preset synthetic --dry-run no.such.key 1",
])
def test_numbers_and_words_that_cannot_be(world, tmp_path, capsys, command):
    refused(capsys, *words(command, world, new=str(tmp_path / "new")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", ["0", "-1", "nan", "1,1", "100000000000000000000", "1e3", ""])
def test_seeds_that_cannot_be(capsys, seeds):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "--dry-run", "--seeds", seeds])
    assert stop.value.code == 2 and "--seeds" in capsys.readouterr().err


ODD_RUNS = ["[]", "null", "{", "[" * 100_000, '{"rows": 1}', {"rows": "abc"}, {"rows": [1]},
            {"seed": "x"}, {"seed": float("nan")}, {"sources": 3},
            {"rows": [{"variant": "v", "mAP": "x"}]},
            {"rows": [{"variant": "v", "rank1": [1]}]}]
ODD_HISTORIES = ["[]", "null", "{", {"transfer-cam": 3}, {"transfer-cam": [3]},
                 {"transfer-cam": [{"mAP": 1}]},
                 {"transfer-cam": [{"mAP": "x", "epoch": 1, "rank1": 1}]},
                 {"transfer-cam": [{"mAP": 1, "epoch": "x", "rank1": 1}]},
                 {"transfer-cam": [{"mAP": None, "epoch": 1, "rank1": None}]},
                 {"transfer-cam": [{"mAP": 0.1, "epoch": 1, "rank1": 0.1}]}]


def test_results_that_are_none(tmp_path, capsys):
    for odd in ODD_RUNS:
        run = write_run(tmp_path, **(odd if isinstance(odd, dict) else {}))
        if isinstance(odd, str):
            (run / "results.json").write_text(odd, encoding="utf-8")
        assert "results.json" in refused(capsys, "curves", run)
    write_run(tmp_path)
    for odd in ODD_HISTORIES:
        text = odd if isinstance(odd, str) else json.dumps(odd)
        (tmp_path / "history.json").write_text(text, encoding="utf-8")
        assert "history.json" in refused(capsys, "curves", run)


def test_the_doctor_says_what_is_wrong_with_each(tmp_path, capsys):
    bad = [wrong_file(tmp_path, kind) for kind in KINDS]
    flags = [(f"--{flag}", path) for path in bad for flag in ("root", "checkpoint", "weights")]
    assert main(["doctor", "--json", *(word for pair in flags for word in pair)]) == 1
    text = capsys.readouterr()
    findings = json.loads(text.out)
    for path in bad:
        mine = [one for one in findings if path in one["name"]]
        assert mine and all(one["state"] != "OK" for one in mine)
    assert "Traceback" not in text.err


def test_names_that_are_no_utf8_are_kept(world, tmp_path, capsys, monkeypatch):
    # pytest cannot pass what it keeps of such a log from one process to another
    monkeypatch.setattr(logging.getLogger("embae_plugin"), "propagate", False)
    root = os.fsencode(tmp_path / "crops")
    for camera in (b"\xfe cam", "日本 ä".encode()):
        try:
            os.makedirs(os.path.join(root, camera))
        except OSError:
            pytest.skip("this file system wants UTF-8")
        for shot in range(3):
            path = os.fsdecode(os.path.join(root, camera, b"x\xff%d.png" % shot))
            picture(1, 0, shot).save(path)
    broken = os.path.join(root, b"\xfe cam", b"bad\xff.png")
    Path(os.fsdecode(broken)).write_bytes(JUNK)
    extract = ["extract", "--checkpoint", f"{world}/m.pth", "--images", f"{tmp_path}/crops"]
    assert main([*extract, "--out", f"{tmp_path}/e.npz", "--max-bad", "0.2"]) == 0
    assert "bad\\udcff.png" in (tmp_path / "e.npz.skipped.txt").read_text(encoding="utf-8")
    search = ["search", "--query", f"{tmp_path}/e.npz", "--gallery", f"{tmp_path}/e.npz"]
    assert main([*search, "--json", f"{tmp_path}/j.json", "--html", f"{tmp_path}/p.html"]) == 0
    answers = json.loads((tmp_path / "j.json").read_text(encoding="utf-8"))
    assert len(answers) == 6 and all(Path(a["hits"][0]["file"]).is_file() for a in answers)
    assert "is not UTF-8" in refused(capsys, *extract, "--out", f"{tmp_path}/e.parquet",
                                     "--max-bad", "0.2")
    capsys.readouterr()
