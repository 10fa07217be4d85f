"""Embeddings in a file, with the crops they are of: .npz, or .parquet for other programs.

An .npz holds ``path`` (N,), ``camid`` (N,) camera names, ``embedding`` (N, d) float32, where
identities are known ``pid`` (N,) text ("" for unknown), and ``about``, JSON text. A .parquet
holds the same as columns, ``about`` in the file's metadata.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

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
    """A zip archive as numpy's; embeddings go to a raw file first, since N is known last."""
    columns: dict[str, list[Texts]] = {"path": [], "camid": []}
    about: dict[str, Any] = {}
    width = rows = 0
    with tempfile.TemporaryFile(dir=draft.parent) as raw:
        for part in parts:
            about, width, rows = part.about, part.embeddings.shape[1], rows + len(part)
            raw.write(np.ascontiguousarray(part.embeddings, dtype="<f4").data)
            for name, column in part.columns().items():
                columns.setdefault(name, []).append(column)
        raw.seek(0)
        arrays = {name: np.concatenate([texts([]), *values]) for name, values in columns.items()}
        arrays["about"] = np.asarray(json.dumps(about))
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            with archive.open("embedding.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, shape)
                shutil.copyfileobj(raw, member, 1 << 24)
    return rows


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
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


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
