"""The same seed gives the same bytes: on another day, disk, folder and number of threads."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from embae_plugin.commands.main import main
from embae_plugin.data import image_bank
from embae_plugin.training.run_identity import load_checkpoint
from tests.commands.tiny_run import TINY
from tests.faults.world import start
from tests.zoo_files import write_market1501, write_viper

PATIENCE = 200
STAGES = ("embedding", "autoencoder-camera", "transfer-cam")


def copy_backwards(source: Path, to: Path) -> Path:
    """The same files, created last to first, so that a folder lists them in another order."""
    for path in sorted((p for p in source.rglob("*") if p.is_file()), reverse=True):
        target = to / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return to


def disorder() -> None:
    """Makes every listing of a folder come in an arbitrary order, as some file systems do."""
    dice = random.Random(1)
    listdir, scandir = os.listdir, os.scandir

    class Shuffled:
        def __init__(self, inner) -> None:
            self._inner, self._entries = inner, list(inner)
            dice.shuffle(self._entries)

        def __iter__(self):
            return iter(self._entries)

        def __next__(self):
            return next(iter(self))

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self._inner.close()

        def close(self) -> None:
            self._inner.close()

    def mixed(*arguments):
        names = listdir(*arguments)
        dice.shuffle(names)
        return names

    os.listdir = mixed
    os.scandir = lambda *arguments: Shuffled(scandir(*arguments))


def pipeline(root: Path, out: Path, workers: int, disordered: bool) -> None:
    """``embae train``, with so many threads that decode."""
    if disordered:
        disorder()
    image_bank.cpu_count = lambda: workers
    options = {**TINY, "embae.variants": "['cam']"}
    pairs = [text for pair in options.items() for text in pair]
    code = main(["train", "-s", "viper", "-t", "market1501", "--root", str(root),
                 "data.save_dir", str(out), *pairs])
    if code:
        raise SystemExit(code)


def left_by(out: Path) -> dict[str, object]:
    """Every weight of every stage as bytes, and the scores."""
    content: dict[str, object] = {}
    for stage in STAGES:
        payload = load_checkpoint(out / stage / "last.pth")
        content[f"{stage} history"] = payload["history"]
        for name, value in payload["model"].items():
            content[f"{stage} {name}"] = value.numpy().tobytes()
    content["rows"] = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    return content


@pytest.mark.skipif(torch.cuda.is_available(), reason="bytes are promised on a processor")
@pytest.mark.parametrize(("workers", "disordered"), [(1, True), (7, True)])
def test_the_same_seed_gives_the_same_bytes(tmp_path, workers, disordered):
    root = tmp_path / "root"
    write_market1501(root, train_ids=4, test_ids=6)
    write_viper(root, identities=8)
    other = copy_backwards(root, tmp_path / "elsewhere" / "root")
    runs = [
        start(pipeline, root, tmp_path / "one", 2, False, log=tmp_path / "log 1"),
        start(pipeline, other, tmp_path / "two", workers, disordered, log=tmp_path / "log 2"),
    ]
    for process in runs:
        process.join(PATIENCE)
        assert process.exitcode == 0, [p.read_text() for p in tmp_path.glob("log *")]
    one, two = left_by(tmp_path / "one"), left_by(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) > 100
    assert [name for name in one if one[name] != two[name]] == []
