"""Embedding files come back as they were, whole or not at all."""

from __future__ import annotations

import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from embae_plugin.data import embedding_files
from embae_plugin.data.embedding_files import (
    EmbeddingTable,
    read_embeddings,
    texts,
    write_embeddings,
)


def table(rows: int, start: int = 0, pids: bool = True) -> EmbeddingTable:
    numbers = range(start, start + rows)
    return EmbeddingTable(
        texts([f"gate/人 {'x' * n}.jpg" for n in numbers]), texts(["gate"] * rows),
        np.arange(start * 3, (start + rows) * 3, dtype=np.float32).reshape(rows, 3),
        texts([str(n % 2 or "") for n in numbers]) if pids else None, {"model": "m", "n": 1},
    )  # fmt: skip


def same(a: EmbeddingTable, b: EmbeddingTable) -> bool:
    columns = ("paths", "cameras", "embeddings")
    equal = all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)
    pids = (a.pids is None) == (b.pids is None) and (
        a.pids is None or np.array_equal(a.pids, b.pids)
    )
    return equal and pids and a.about == b.about


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("pids", [True, False])
def test_parts_come_back_as_one_table(tmp_path, suffix, pids):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"e{suffix}"
    assert write_embeddings(path, (table(n, s, pids) for n, s in ((2, 0), (3, 2), (1, 5)))) == 6
    back = read_embeddings(path)
    assert same(back, table(6, pids=pids)) and os.listdir(tmp_path) == [path.name]
    assert back.embeddings.dtype == np.float32 and back.embeddings.flags.writeable


def test_numpy_reads_it(tmp_path):
    write_embeddings(tmp_path / "e.npz", table(2))
    with np.load(tmp_path / "e.npz") as archive:
        assert sorted(archive.files) == ["about", "camid", "embedding", "path", "pid"]
        assert archive["embedding"].shape == (2, 3)


def test_columns_beyond_what_old_zip_files_hold(tmp_path, monkeypatch):
    """As those of some five million crops, whose paths alone take gigabytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    path, parts = tmp_path / "e.npz", (table(40, 40 * n) for n in range(3))
    assert write_embeddings(path, parts) == 120
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert sizes["path.npy"] > 1000 and sizes["camid.npy"] > 1000 and sizes["pid.npy"] > 400
    back = read_embeddings(path)
    assert same(back, table(120)) and back.paths.dtype.itemsize == table(120).paths.dtype.itemsize


def test_no_more_than_a_part_is_in_memory(tmp_path):
    rows, paths = 2000, texts([f"gate/{'x' * 200}{n}.jpg" for n in range(2000)])
    z = np.ones((rows, 256), dtype=np.float32)
    part = EmbeddingTable(paths, texts(["gate"] * rows), z, None, {})
    one = part.paths.nbytes + part.embeddings.nbytes
    tracemalloc.start()
    try:
        assert write_embeddings(tmp_path / "e.npz", (part for _ in range(12))) == 12 * rows
        assert tracemalloc.get_traced_memory()[1] < 3 * one
    finally:
        tracemalloc.stop()


def test_where_the_images_lie():
    one = table(1)
    one.about["root"] = "/data"
    assert str(one.file(0)) == os.path.join("/data", "gate/人 .jpg")


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.npz"
    write_embeddings(path, table(1))
    before = path.read_bytes()

    def parts():
        yield table(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_embeddings(path, parts())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["e.npz"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="embae extract writes them"):
        read_embeddings(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"ending in \.npz or \.parquet"):
        read_embeddings(tmp_path / "e.csv")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="damaged or no file"):
        read_embeddings(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="has no 'path'"):
        read_embeddings(tmp_path / "other.npz")
    one = texts(["a"])
    np.savez(tmp_path / "odd.npz", path=one, camid=one, embedding=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="different lengths"):
        read_embeddings(tmp_path / "odd.npz")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(embedding_files.importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        write_embeddings(tmp_path / "e.parquet", table(1))
    assert os.listdir(tmp_path) == []
