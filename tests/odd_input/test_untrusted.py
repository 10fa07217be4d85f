"""Files made to do harm: no code is run, no memory set aside, nothing followed without end."""

from __future__ import annotations

import json
import logging
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.data.feature_bank import load_features
from embae_plugin.lab.reproduction.preset import load_preset
from embae_plugin.models.door import open_model
from embae_plugin.models.weight_files import read_file, read_state
from embae_plugin.runtime import log_to, printable
from embae_plugin.settings.config import load_config
from tests.crops_world import write_checkpoint


def rewritten(path: Path, change, **how) -> Path:
    """A zip archive written again, ``change(name, content)`` its members' content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, **how) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))
    return path


def test_a_checkpoint_in_which_a_bit_has_changed(tmp_path):
    path = write_checkpoint(tmp_path / "x.pth")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth is .*has changed since it was written"):
        open_model(path)


def test_a_tensor_that_says_it_is_larger_than_its_file(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    size = b"M" + struct.pack("<H", 1000) + b"\x85"  # a shape, (1000,), in the pickle

    def enlarge(name, content):
        if not name.endswith("data.pkl"):
            return content
        assert content.count(size) == 1
        return content.replace(size, b"J" + struct.pack("<i", 2**29) + b"\x85")

    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.pth"):
        read_file(rewritten(tmp_path / "x.pth", enlarge))
    torch.save({"w": torch.zeros(1).expand(2**40)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds a tensor of"):
        read_state(tmp_path / "x.pth")
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_an_archive_that_unpacks_to_more_than_weights_would(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match="it says that it unpacks to"):
        read_file(tmp_path / "x.pth")


@pytest.mark.parametrize("depth", [0, 100_000])
def test_state_dicts_without_an_end(tmp_path, depth):
    """One that holds itself, and a very deep one."""
    innermost: dict = {}
    content = innermost
    for _ in range(depth and 300):  # deeper ones cannot be written
        content = {"model": content}
    if not depth:
        innermost["model"] = innermost
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        read_state(tmp_path / "x.pth")


YAMLS = {
    "aliases": "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "itself": "a: &a {b: *a}\n",
    "depth": "[" * 10_000,
    "objects": "x: !!python/object/apply:os.mkdir [ran]\n",
    "no number": "train: {lr: !!int ''}\n",
    "no date": "train: {lr: 2001-99-99}\n",
    "no float": "train: {lr: 1" + "0" * 400 + "}\n",
    "digits": "train: {lr: 1" + "0" * 5000 + "}\n",
    "keys": "{1: {2: 3}}\n", "list": "[1]\n", "text": "x", "no key": "? [a]\n: b\n",
    "deep text": "data: {root: '" + "(" * 5000 + "'}\n",
    "nul": "data: {root: \0}\n",
    "latin": "data: {root: \udcff}\n",
}


@pytest.mark.parametrize("kind", YAMLS)
@pytest.mark.parametrize("read", [load_config, load_preset])
def test_configurations(tmp_path, monkeypatch, kind, read):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(YAMLS[kind], encoding="utf-8", errors="surrogateescape")
    if (read, kind) == (load_config, "deep text"):  # is a folder's name like another
        assert load_config(path).data.root.startswith("((")
        return
    with pytest.raises(ValueError, match=r"x\.yaml"):
        read(str(path))
    assert not Path("ran").exists()


def lying_npy(count: int) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 2, 4), }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(64)


@pytest.mark.parametrize("count", [10**9, 10**30, -1])
def test_arrays_that_say_they_are_larger_than_their_file(tmp_path, count, caplog):
    content = lying_npy(count)
    (tmp_path / "f.npy").write_bytes(content)
    assert load_features(tmp_path / "f.npy", count, 2) is None and "is damaged" in caplog.text
    np.savez(tmp_path / "e.npz", path=np.array(["a"]), camid=np.array(["b"]))
    with zipfile.ZipFile(tmp_path / "e.npz", "a") as archive:
        archive.writestr("embedding.npy", content)
    with pytest.raises(ValueError, match=r"e\.npz is damaged or no file of embae extract"):
        read_embeddings(tmp_path / "e.npz")


def test_a_compressed_file_of_embeddings_is_read(tmp_path):
    columns = {"path": np.array(["a", "b"]), "camid": np.array(["c", "c"]),
               "embedding": np.asfortranarray(np.ones((2, 3))), "about": np.array(json.dumps({}))}
    np.savez_compressed(tmp_path / "e.npz", **columns)
    assert read_embeddings(tmp_path / "e.npz").embeddings.shape == (2, 3)


def test_names_do_not_steer_the_terminal(tmp_path, capsys):
    with log_to(tmp_path / "x.log"):
        logging.getLogger("embae_plugin").info("of %s", "a\x1b[2Jb")
    assert "of a\\x1b[2Jb" in (tmp_path / "x.log").read_text()
    assert main(["evaluate", "--query", f"{tmp_path}/\x1b[2J.npz"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert printable("a\x1b]0;x\x07\r\x9b\tb\nä日") == "a\\x1b]0;x\\x07\\x0d\\x9b\tb\nä日"
