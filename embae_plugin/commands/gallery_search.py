"""Finds the crops most similar to queries: `embae search`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embae_plugin.data.camera_rules import crops_by_folder, find_images
from embae_plugin.data.embedding_files import (
    SUFFIXES,
    EmbeddingTable,
    read_embeddings,
    texts,
)
from embae_plugin.embedder import UNKNOWN, tell_unknown
from embae_plugin.evaluation.nearest import nearest, unit_length
from embae_plugin.reid import ReID
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """One found crop: gallery row, its file, its name and camera there, cosine similarity."""

    row: int
    file: Path
    path: str
    camera: str
    pid: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """A query crop with its hits, best first; ``camera`` is "" where it is not known."""

    file: Path
    path: str
    camera: str
    hits: tuple[Hit, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        hits = [
            {"rank": n, "path": hit.path, "file": str(hit.file), "camid": hit.camera,
             **({"pid": hit.pid} if hit.pid else {}), "similarity": round(hit.similarity, 6)}
            for n, hit in enumerate(self.hits, 1)
        ]  # fmt: skip
        return {"query": self.path, "camid": self.camera, "hits": hits}


def read_moved(path: str | Path, root: str = "") -> EmbeddingTable:
    """Embeddings whose images lie in ``root`` by now, if that is given."""
    table = read_embeddings(path)
    if root:
        table.about["root"] = root
    return table


def load_queries(
    query: str | Path,
    open_reid: Callable[[], ReID] | None,
    camera: str,
    gallery: EmbeddingTable,
    root: str = "",
) -> EmbeddingTable:
    """The queries' embeddings: read from a file of `embae extract`, or computed.

    Args:
        query: an image, a folder of images, or an embedding file.
        open_reid: opens the model, for images; None where none was named.
        camera: the camera of query images, "" if not known; in a folder that holds a folder for
            each camera, those are taken.
        gallery: what will be searched; it must come from the same model.
        root: where the images of an embedding file lie, if they have moved.

    Raises:
        ValueError, FileNotFoundError: no such query, no checkpoint, another model's gallery, or a
            ``camera`` that the model does not know.
    """
    query = Path(query)
    if query.suffix.lower() in SUFFIXES:
        table = read_moved(query, root)
        _check_model(table.about.get("model"), gallery, query)
        return table
    if not query.exists():
        raise FileNotFoundError(f"the query {query} does not exist")
    if open_reid is None:
        raise ValueError("--checkpoint is needed to embed query images: the gallery's model")
    reid = open_reid()
    _check_model(state_fingerprint(reid.model), gallery, "the checkpoint")
    folder, names = query.parent, [query.name]
    if query.is_dir():
        folder, names = query, find_images(query)
    cameras = [camera] * len(names)
    if not camera and query.is_dir() and all(Path(name).parent != Path() for name in names):
        cameras = list(crops_by_folder(query).cameras)
    z = reid.embed([folder / name for name in names], cameras=_named(reid, camera, cameras))
    about = {"root": str(folder.resolve())}
    return EmbeddingTable(texts(names), texts(cameras), z, None, about)


def _named(reid: ReID, camera: str, cameras: list[str]) -> Any:
    """Cameras of the queries as the model takes them; None where nothing says them."""
    if not reid.camera_names:
        return None  # it treats all alike; the names serve --other-cameras-only
    if camera:
        return camera
    if not any(cameras):
        logger.warning("--query-camera names the camera of the query, if the model knows it")
        return None
    tell_unknown(reid.model, cameras)
    return [name if name in reid.camera_names else UNKNOWN for name in cameras]


def _check_model(name: Any, gallery: EmbeddingTable, source: str | Path) -> None:
    theirs = gallery.about.get("model")
    if name and theirs and name != theirs:
        raise ValueError(
            f"{source} and the gallery come from different models, whose embeddings cannot be "
            "compared: embed both with one (embae extract)"
        )


def search(
    query: EmbeddingTable,
    gallery: EmbeddingTable,
    top: int = 10,
    other_cameras_only: bool = False,
    index: str = "flat",
) -> list[Answer]:
    """The most similar gallery crops of each query, the query's own file excepted.

    Args:
        other_cameras_only: leave out crops of the query's own camera.
        index: see :func:`nearest`.

    Raises:
        ValueError: embeddings of different width, NaN or infinite, no gallery, or a query of
            unknown camera where other cameras are asked for.
    """
    if top < 1:
        raise ValueError(f"--top {top}: at least 1")
    if not len(query) or not len(gallery):
        raise ValueError("there is nothing to search: query or gallery is empty")
    if query.embeddings.shape[1] != gallery.embeddings.shape[1]:
        raise ValueError(
            f"the queries have {query.embeddings.shape[1]} dimensions and the gallery "
            f"{gallery.embeddings.shape[1]}: embed both with one model"
        )
    for name, table in (("queries", query), ("gallery", gallery)):
        broken = np.flatnonzero(~np.isfinite(table.embeddings).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{len(broken)} of {len(table)} embeddings of the {name} hold NaN or infinite "
                f"values, that of {table.paths[broken[0]]} first: embed them again"
            )
    if other_cameras_only and not all(query.cameras):
        raise ValueError(
            "--other-cameras-only needs the query's camera: name it with --query-camera, or put "
            "queries in a folder for each camera"
        )
    z, g = unit_length(query.embeddings), unit_length(gallery.embeddings)
    # One more than asked for, since a query may find itself.
    rows = np.full((len(z), min(top + 1, len(g))), -1, dtype=np.int64)
    similarity = np.zeros(rows.shape, dtype=np.float32)
    for camera in sorted(set(query.cameras.tolist())) if other_cameras_only else [None]:
        mine = slice(None) if camera is None else np.flatnonzero(query.cameras == camera)
        hidden = None if camera is None else gallery.cameras == camera
        found, values = nearest(z[mine], g, top + 1, hidden, index)
        rows[mine, : found.shape[1]], similarity[mine, : found.shape[1]] = found, values
    return [_answer(query, n, gallery, rows[n], similarity[n], top) for n in range(len(z))]


def _answer(
    query: EmbeddingTable,
    number: int,
    gallery: EmbeddingTable,
    rows: Any,
    similarity: Any,
    top: int,
) -> Answer:
    itself = query.file(number).absolute()
    hits = []
    for row, value in zip(rows.tolist(), similarity.tolist(), strict=True):
        if row < 0 or gallery.file(row).absolute() == itself:
            continue
        pid = "" if gallery.pids is None else str(gallery.pids[row])
        hits.append(Hit(row, gallery.file(row), str(gallery.paths[row]),
                        str(gallery.cameras[row]), pid, value))  # fmt: skip
    camera = str(query.cameras[number])
    return Answer(query.file(number), str(query.paths[number]), camera, tuple(hits[:top]))
