"""The same crops embedded twice, before and after adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embae_plugin.data.embedding_files import EmbeddingTable, read_embeddings
from embae_plugin.data.records import queries_and_gallery

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Texts = NDArray[np.generic]  # of cameras or identities, which a file may hold as numbers
UNKNOWN = -1


@dataclass(frozen=True)
class Pair:
    """N crops with two embeddings each."""

    paths: tuple[str, ...]  # N file names
    cameras: Ints  # (N,) numbers into camera_names
    camera_names: tuple[str, ...]  # each once, sorted
    pids: Ints  # (N,) numbers into pid_names, −1 for an unknown identity or a distractor
    pid_names: tuple[str, ...]  # each once, sorted
    before: Floats  # (N, d) embeddings
    after: Floats  # likewise; d may differ
    query: Ints  # (Q,) and (G,) rows of the labelled crops that are compared
    gallery: Ints
    leave_one_out: bool = True  # each labelled crop is a query against all others
    root: str = ""  # where paths count from
    # what the two files say of themselves
    about: tuple[Mapping[str, object], Mapping[str, object]] = ({}, {})

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labelled(self) -> bool:
        """Whether there is anything to score."""
        return bool(len(self.query) and len(self.gallery))


def read_pair(
    before: str | Path, after: str | Path, query: str | Path = "", gallery: str | Path = "",
    images_root: str | Path = "",
) -> Pair:
    """Two files of ``embae extract`` or ``embae adapt``, row by row of the same crops.

    Args:
        query, gallery: text files with one path of the crops on each line; both or neither.
            Without them every labelled crop is a query against all the others.
        images_root: what paths count from; the files' own root by default.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the files are not of the same crops, or disagree on a camera or an identity.
    """
    old, new = read_embeddings(before), read_embeddings(after)
    if bool(query) != bool(gallery):
        raise ValueError("--query and --gallery belong together: name both files, or neither")
    for name, table in ((before, old), (after, new)):
        if not len(table):
            raise ValueError(f"{name} holds no embeddings")
        if len(np.unique(table.paths)) != len(table):
            raise ValueError(f"{name} holds a path twice")
        if not np.isfinite(table.embeddings).all():
            raise ValueError(f"{name} holds embeddings that are not finite numbers")
    order = _matching_rows(old, new, before, after)
    _check_same("cameras", old.cameras, new.cameras[order], old.paths)
    pids = np.full(len(old), "") if old.pids is None else old.pids.astype(str)
    if new.pids is not None:
        theirs = new.pids.astype(str)[order]
        if old.pids is not None:
            _check_same("identities", pids, theirs, old.paths)
        pids = theirs
    camera_names, cameras = np.unique(old.cameras.astype(str), return_inverse=True)
    asked, searched = queries_and_gallery(pids)
    codes = np.full(len(pids), UNKNOWN, dtype=np.int64)
    pid_names, codes[asked] = np.unique(pids[asked], return_inverse=True)
    return Pair(
        paths=tuple(old.paths.tolist()), cameras=cameras.reshape(-1).astype(np.int64),
        camera_names=tuple(camera_names.tolist()), pids=codes, pid_names=tuple(pid_names.tolist()),
        before=old.embeddings, after=np.ascontiguousarray(new.embeddings[order]),
        query=_listed(query, old, asked) if query else np.flatnonzero(asked),
        gallery=_listed(gallery, old, searched) if gallery else np.flatnonzero(searched),
        leave_one_out=not query,
        root=str(images_root or old.about.get("root") or new.about.get("root") or ""),
        about=(old.about, new.about),
    )


def _matching_rows(
    old: EmbeddingTable, new: EmbeddingTable, before: str | Path, after: str | Path
) -> Ints:
    """For each row of ``old``, the row of ``new`` with the same path."""
    place = {path: row for row, path in enumerate(new.paths.tolist())}
    absent = [path for path in old.paths.tolist() if path not in place]
    if absent or len(old) != len(new):
        example = f", for example {absent[0]} is only in the first" if absent else ""
        raise ValueError(
            f"{before} ({len(old)} crops) and {after} ({len(new)}) are not of the same "
            f"crops{example}; extract both from one folder"
        )
    return np.array([place[path] for path in old.paths.tolist()], dtype=np.int64)


def _check_same(what: str, ours: Texts, theirs: Texts, paths: Texts) -> None:
    differ = np.flatnonzero(ours.astype(str) != theirs.astype(str))
    if len(differ):
        row = differ[0]
        raise ValueError(
            f"the two files name other {what} for {len(differ)} crops, for example {paths[row]}: "
            f"{ours[row]} and {theirs[row]}"
        )


def _listed(path: str | Path, table: EmbeddingTable, usable: NDArray[np.bool_]) -> Ints:
    """The rows that a list of paths names, all of them ``usable``."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"the list {path} does not exist; one path of a crop on each line")
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    place = {name: row for row, name in enumerate(table.paths.tolist())}
    unknown = [line for line in lines if line and line not in place]
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} paths are not embedded, such as {unknown[0]}")
    rows = np.array([place[line] for line in lines if line], dtype=np.int64)
    nobody = int((~usable[rows]).sum())
    if nobody or not len(rows):
        raise ValueError(f"{path}: {nobody} of its {len(rows)} crops have no identity to score by")
    return rows
