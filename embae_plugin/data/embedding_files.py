"""Embeddings in a file, with the crops they are of: .npz, or .parquet for other programs.

An .npz holds ``path`` (N,), ``camid`` (N,) camera names, ``embedding`` (N, d) float32, where
identities are known ``pid`` (N,) text ("" for unknown), and ``about``, JSON text. A .parquet
holds the same as columns, ``about`` in the file's metadata.
"""

from __future__ import annotations

import importlib
import json
import math
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embae_plugin.atomic_file import replacing

Texts = NDArray[np.str_]
SUFFIXES = (".npz", ".parquet")


@dataclass
class EmbeddingTable:
    """N embeddings.

    Attributes:
        paths: (N,) of the images, relative to ``about["root"]`` or absolute.
        cameras: (N,) names.
        embeddings: (N, d) float32.
        pids: (N,) text, "" where unknown; None if no identity is known.
        about: plain values: ``model`` (a fingerprint of the weights), ``root``, ``normalized``, …
    """

    paths: Texts
    cameras: Texts
    embeddings: NDArray[np.float32]
    pids: Texts | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    def columns(self) -> dict[str, Texts]:
        """The columns of text, by their names in a file."""
        found = {"path": self.paths, "camid": self.cameras}
        return found if self.pids is None else {**found, "pid": self.pids}

    def file(self, row: int) -> Path:
        """Where the image of a row lies."""
        return Path(str(self.about.get("root", ""))) / str(self.paths[row])


def texts(values: Sequence[str]) -> Texts:
    """Text as an array that needs no pickle."""
    return np.asarray(values, dtype=np.str_)


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ImportError(
            "parquet files need pyarrow: pip install pyarrow (or write an .npz)"
        ) from None


def check_suffix(path: str | Path) -> str:
    """The ending of an embedding file.

    Raises:
        ValueError: another ending.
        ImportError: .parquet, and pyarrow is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: embeddings are kept in files ending in {' or '.join(SUFFIXES)}")
    if suffix == ".parquet":
        _parquet()
    return suffix


def write_embeddings(path: str | Path, parts: EmbeddingTable | Iterable[EmbeddingTable]) -> int:
    """Writes a table, or many one after the other, atomically; returns the number of rows.

    Embeddings pass through memory one part at a time. All parts have the first one's ``about``,
    width, and either identities or none.
    """
    parts = [parts] if isinstance(parts, EmbeddingTable) else parts
    write = _write_parquet if check_suffix(path) == ".parquet" else _write_npz
    with replacing(path) as draft:
        return write(draft, parts)


def _write_npz(draft: Path, parts: Iterable[EmbeddingTable]) -> int:
    """A zip archive as numpy's, of any size.

    Columns go to files of their own first, since neither N nor the longest name is known before
    the last part.
    """
    about: dict[str, Any] = {}
    with ExitStack() as stack:
        columns: dict[str, _Spool] = {}
        for part in parts:
            about = part.about
            embedding = np.ascontiguousarray(part.embeddings, dtype="<f4")
            for name, array in {**part.columns(), "embedding": embedding}.items():
                if name not in columns:
                    raw = stack.enter_context(tempfile.TemporaryFile(dir=draft.parent))
                    columns[name] = _Spool(raw)
                columns[name].add(array)
        if not columns:
            raise ValueError("there is nothing to write: not a single part")
        columns["about"] = _Spool(stack.enter_context(tempfile.TemporaryFile(dir=draft.parent)))
        columns["about"].add(np.asarray(json.dumps(about)))
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    column.write_to(member)
        return columns["embedding"].rows


class _Spool:
    """Arrays that become one, kept in a file until all are there."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.parts, self.rows = raw, 0, 0
        self.shape: tuple[int, ...] = ()
        self.kind = np.dtype("<U1")

    def add(self, array: NDArray[Any]) -> None:
        """Puts an array behind those before."""
        np.lib.format.write_array(self.raw, array, allow_pickle=False)
        self.kind = np.promote_types(self.kind, array.dtype) if self.parts else array.dtype
        self.shape, self.parts = array.shape, self.parts + 1
        self.rows += len(array) if array.ndim else 1

    def write_to(self, member: IO[bytes]) -> None:
        """Writes the one array as an .npy, a part at a time."""
        shape = (self.rows, *self.shape[1:]) if self.shape else ()
        header = {"descr": self.kind.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        self.raw.seek(0)
        for _ in range(self.parts):
            part = np.lib.format.read_array(self.raw, allow_pickle=False)
            member.write(np.ascontiguousarray(part, self.kind).tobytes())


def _write_parquet(draft: Path, parts: Iterable[EmbeddingTable]) -> int:
    tables, rows = map(_arrow_table, parts), 0
    first = next(tables)
    with _parquet().ParquetWriter(draft, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            rows += len(table)
    return rows


def _arrow_table(part: EmbeddingTable) -> Any:
    pa = importlib.import_module("pyarrow")
    flat = pa.array(np.ascontiguousarray(part.embeddings, dtype=np.float32).reshape(-1))
    try:
        columns = {n: pa.array(c.tolist(), pa.string()) for n, c in part.columns().items()}
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name {error.object!a} is not UTF-8, which parquet files need: rename it, or "
            "write an .npz"
        ) from None
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, part.embeddings.shape[1])
    order = [name for name in ("path", "camid", "embedding", "pid") if name in columns]
    table = pa.table({name: columns[name] for name in order})
    return table.replace_schema_metadata({"about": json.dumps(part.about)})


def read_embeddings(path: str | Path) -> EmbeddingTable:
    """The table in a file of :func:`write_embeddings`; whole numbers in it become names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or damaged.
        ImportError: a .parquet, and pyarrow is not installed.
    """
    path = Path(path)
    read = _read_parquet if check_suffix(path) == ".parquet" else _read_npz
    if not path.is_file():
        raise FileNotFoundError(f"the embeddings {path} do not exist: embae extract writes them")
    try:
        found = read(path)
        about = json.loads(str(found.get("about", "{}")))
        columns = {name: found[name] for name in ("path", "camid", "embedding")}
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}: it is no file of embae extract, which holds path, camid and "
            "embedding"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged archive leads its reader to
        raise ValueError(f"{path} is damaged or no file of embae extract ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} cannot be used: its about is no JSON object")
    if "pid" in found:
        columns["pid"] = found["pid"]
    for name, column in columns.items():
        numbers = name == "embedding"
        kinds = "fiu" if numbers else "Uiu"
        if column.ndim != 1 + numbers or 0 in column.shape[1:] or column.dtype.kind not in kinds:
            wanted = "(N, d) real numbers" if numbers else "(N,) text or whole numbers"
            raise ValueError(
                f"{path} cannot be used: its {name} is {column.dtype} {column.shape}, and must be "
                f"{wanted}"
            )
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{path} is damaged: its columns are of different lengths: {rows}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, see unit_length
        z = np.require(columns.pop("embedding"), np.float32, ["C", "W"])
    text = {name: column.astype(np.str_, copy=False) for name, column in columns.items()}
    return EmbeddingTable(text["path"], text["camid"], z, text.get("pid"), about)


def _read_npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():  # numpy sets memory aside for whatever a header says
            with archive.open(info) as member:
                check_npy_size(member, info.file_size)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def check_npy_size(stream: IO[bytes], size: int) -> None:
    """Refuses an .npy that does not hold as much as its header says.

    Args:
        stream: at its beginning; afterwards behind the header.
        size: in bytes, of the whole.

    Raises:
        ValueError: as said, or it is no .npy.
    """
    version, form = np.lib.format.read_magic(stream), np.lib.format
    read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, _, kind = read(stream)
    said = math.prod(shape) * kind.itemsize
    if version not in ((1, 0), (2, 0)) or min(shape, default=0) < 0 or stream.tell() + said != size:
        raise ValueError(f"its header says {kind} {shape}, which {size:,} bytes do not hold")


def _read_parquet(path: Path) -> dict[str, Any]:
    table = _parquet().read_table(path)
    columns: dict[str, Any] = {
        name: texts(["" if value is None else str(value) for value in table[name].to_pylist()])
        for name in ("path", "camid", "pid")
        if name in table.column_names
    }
    values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    width = getattr(table.schema.field("embedding").type, "list_size", -1)
    columns["embedding"] = values.reshape(len(table), width)
    metadata = table.schema.metadata or {}
    return {**columns, "about": metadata.get(b"about", b"{}").decode()}
