"""Every reader of files, given bytes that are no file of ours or a damaged one.

It loads what is there or ends in the ValueError or FileNotFoundError that it documents: no other
exception, no endless work, no memory for what is not there. A few examples each; many more with
``pytest --hypothesis-profile deep tests/odd_input/test_fuzz.py``.
"""

from __future__ import annotations

import json
import shutil
import signal
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from embae_plugin.commands.extract import _skipped_in
from embae_plugin.commands.job_folder import JobFolder
from embae_plugin.data.archives import unpack
from embae_plugin.data.camera_rules import list_crops
from embae_plugin.data.datasets.generation import METADATA, VERSION, read_metadata
from embae_plugin.data.embedding_files import (
    EmbeddingTable,
    read_embeddings,
    texts,
    write_embeddings,
)
from embae_plugin.data.feature_bank import load_features
from embae_plugin.data.layouts import stale_splits
from embae_plugin.evaluation.score_table import kept_rows
from embae_plugin.lab.reproduction import runner
from embae_plugin.lab.reproduction.preset import load_preset
from embae_plugin.lab.seeds import read_run
from embae_plugin.models.bundle import load_checkpoint
from embae_plugin.models.door import open_model
from embae_plugin.models.weight_files import read_state
from embae_plugin.settings.config import load_config
from embae_plugin.settings.files import config_folder
from embae_plugin.training.run_identity import load_weights
from tests.crops_world import tiny_embae, write_checkpoint

resource = pytest.importorskip("resource")

DEEP = settings.default.max_examples > 500  # the profile of tests/conftest.py
EXAMPLES = settings(max_examples=settings.default.max_examples if DEEP else 20, deadline=None,
                    derandomize=not DEEP, database=None)
PATIENCE, MOST_KILOBYTES = 20, 400_000


class Hang(BaseException):
    """No reader catches it."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- real files -------------------------------------------------------------------------------


def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in tiny_embae().state_dict().items()}


def write_onnx(path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["x2"])], "g", [value], [
        onnx.helper.make_tensor_value_info("x2", onnx.TensorProto.FLOAT, [1])])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())


def write_table(path: Path) -> None:
    table = EmbeddingTable(texts(["a.jpg", "b.jpg", "ü.jpg"]), texts(["x", "y", "x"]),
                           np.ones((3, 4), np.float32), texts(["1", "", "2"]),
                           {"model": "m", "skipped": [["c.jpg", "damaged"]]})
    write_embeddings(path, table)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.jpg", "a/2.jpg", "b.txt"):
            archive.writestr(name, name.encode() * 200)


def write_tar(path: Path) -> None:
    made = path.with_name(f"{path.name}.zip")
    write_zip(made)
    with tarfile.open(path, f"w:{path.suffix[1:] if path.suffix != '.tar' else ''}") as archive:
        archive.add(made, "a/inside.zip")
        archive.add(path.parent, "folder", recursive=False)


def write_json(content: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(content), encoding="utf-8") and None


def write_preset(path: Path) -> None:
    shutil.copy(config_folder() / "reproduce_synthetic.yaml", path)


def write_config(path: Path) -> None:
    path.write_text(yaml.safe_dump({"data": {"height": 64, "root": "x", "norm_mean": [0.5] * 3},
                                    "train": {"lr": 0.1}, "embae": {"variants": ["cam"]}}))


def write_csv(path: Path) -> None:
    path.write_text('path,camid,pid\na.jpg,gate,1\n"b,c.jpg",yard,\nü.jpg,"x ""y""",2\n', "utf-8")


SETTINGS = {"seed": 1, "images": "3 (ab)"}
ROWS = [{"variant": name, "rank1": 0.25, "mAP": 0.5, "queries": 3} for name in ("baseline", "cam")]
RESULTS = {"target": "t", "sources": ["a", "b"], "seed": 1, "rows": ROWS}
EPOCH = {"phase": "p", "epoch": 1, "reconstruction": 0.5, "rank1": 0.2, "rank1_nd": 0.2, "mAP": 0.1}
HISTORY = {"transfer-cam": [{**EPOCH, "mAP_nd": 0.1}]}


# --- readers ------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """A real file's name, what writes it, what reads it, and whether it may be refused."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    refuses: bool = True


def read_job(path: Path) -> None:
    JobFolder(path.parent.parent, ["done"], SETTINGS).found()


def read_archive(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, Path(folder) / "new")


def reproduced(path: Path) -> None:
    """As if made with what would make it now."""
    rows = runner.kept_scores(SimpleJob(path.parent), "images")
    assert all(isinstance(row["variant"], str) for row in rows)
    for row in rows:
        assert not any(isinstance(row[key], (str, list, dict)) for key in row if key != "variant")


class SimpleJob(NamedTuple):
    folder: Path


READERS = {
    "checkpoint": Reader("x.pth", write_checkpoint, open_model),
    "checkpoint of a stage": Reader("x.pth", write_checkpoint, load_checkpoint),
    "weights of a model": Reader("x.pth", write_checkpoint, lambda p: load_weights(MODEL, p)),
    "torch": Reader("x.pth", lambda p: torch.save({"state_dict": state()}, p), read_state),
    "torch, legacy": Reader("x.pth", lambda p: torch.save(
        state(), p, _use_new_zipfile_serialization=False), read_state),
    "safetensors": Reader("x.safetensors", lambda p: save_file(state(), p), read_state),
    "onnx": Reader("x.onnx", write_onnx, open_model),
    "torchscript": Reader("x.pt", lambda p: torch.jit.script(torch.nn.ReLU()).save(str(p)),
                          open_model),
    "configuration": Reader("x.yaml", write_config, load_config),
    "preset": Reader("x.yaml", write_preset, lambda p: load_preset(str(p)).config(1)),
    "table": Reader("x.csv", write_csv, lambda p: list_crops(table=p)),
    "embeddings": Reader("x.npz", write_table, read_embeddings),
    "embeddings, parquet": Reader("x.parquet", write_table, read_embeddings),
    "features": Reader("x.npy", lambda p: np.save(p, np.ones((3, 2, 4), np.float32)),
                       lambda p: load_features(p, 3, 2), refuses=False),
    "block of an extraction": Reader("x.npz", write_table, _skipped_in, refuses=False),
    "job folder": Reader(".unfinished/job.json", write_json(
        {"settings": SETTINGS, "notes": {"skipped": [["a.jpg", "damaged"]]}}), read_job),
    "zip": Reader("x.zip", write_zip, read_archive),
    "tar": Reader("x.tar", write_tar, read_archive),
    "tar.gz": Reader("x.gz", write_tar, read_archive),
    "tar.xz": Reader("x.xz", write_tar, read_archive),
    "tar.bz2": Reader("x.bz2", write_tar, read_archive),
    "record of a reproduction": Reader(runner.RECORD, write_json(
        {"made_with": "now", "rows": ROWS}), reproduced, refuses=False),
    "results": Reader("results.json", write_json(RESULTS), lambda p: read_run(p.parent)),
    "results that are kept": Reader("results.json", write_json(RESULTS), lambda p: kept_rows(
        p, "t", {"seed": 1}, {"cam"}), refuses=False),
    "history": Reader("history.json", write_json(HISTORY), lambda p: read_run(p.parent)),
    "built-in data": Reader(METADATA, write_json(
        {"name": "n", "generator": VERSION, "seed": 0, "scale": 1.0}),
        lambda p: read_metadata(p.parent, 1.0, 0)),
    "splits": Reader("splits.json", write_json([{"train": [["a.jpg", 0, 0]]}]), stale_splits,
                     refuses=False),
}
MODEL = tiny_embae(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder for each reader, with its file, made at the first use; and the real content."""
    made: dict[str, tuple[Path, bytes]] = {}

    def file_of(kind: str) -> tuple[Path, bytes]:
        if kind not in made:
            reader = READERS[kind]
            path = tmp_path_factory.mktemp("fuzz") / reader.name
            path.parent.mkdir(exist_ok=True)
            (path.parent / "results.json").write_text(json.dumps(RESULTS))
            reader.write(path)
            made[kind] = path, path.read_bytes()
        return made[kind]

    return file_of


share = st.floats(0, 1, exclude_max=True)
damage = st.one_of(
    st.tuples(st.just("random"), st.binary(max_size=300)),
    st.tuples(st.just("cut"), share, st.binary(max_size=40)),
    st.tuples(st.just("flipped"), st.lists(st.tuples(share, st.integers(0, 7)), min_size=1,
                                           max_size=6)),
    st.tuples(st.just("flipped"), st.lists(st.tuples(  # where headers and directories are
        st.one_of(share.map(lambda x: x * 0.02), share.map(lambda x: 1 - 0.02 * (1 - x))),
        st.integers(0, 7)), min_size=1, max_size=3)),
    st.tuples(st.just("moved"), share, share, share),
)


def damaged(content: bytes, how: tuple[Any, ...]) -> bytes:
    kind, *more = how
    size = len(content)
    if kind == "random":
        return bytes(more[0])
    if kind == "cut":
        return content[: int(more[0] * size)] + more[1]
    if kind == "moved":  # a piece of it to another place
        start, stop, place = (int(one * size) for one in more)
        piece = content[start : max(start, stop)]
        return content[:place] + piece + content[place:]
    changed = bytearray(content)
    for where, bit in more[0]:
        changed[min(int(where * size), size - 1)] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files(files, monkeypatch, kind):
    if kind.endswith("parquet"):
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(runner, "_made_with", lambda job, images: "now")
    reader, (path, content) = READERS[kind], files(kind)
    allowed = (ValueError, FileNotFoundError) if reader.refuses else ()
    if kind not in ("onnx", "torchscript"):
        reader.read(path)  # the real one is taken
    number, before = count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @EXAMPLES
    @given(how=damage)
    def read(how: tuple[Any, ...]) -> None:
        next(number)
        path.write_bytes(damaged(content, how))
        with no_longer_than(PATIENCE):
            try:
                reader.read(path)
            except allowed as error:
                assert str(error)

    read()
    path.write_bytes(content)
    assert next(number) >= EXAMPLES.max_examples // 2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_KILOBYTES, f"{grown:,} kB"
