"""Crops of drawn stripes and their embeddings, as ``embae extract`` leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from embae_plugin.data.embedding_files import EmbeddingTable, texts, write_embeddings

EVIL = '<script>alert("x")</script>&.png'.replace("/", "⁄")


def write_files(folder: Path, labelled: bool = True, people: int = 8, cameras: int = 3) -> Path:
    """``before.npz``, ``after.npz`` and ``crops``; two crops of each person on each camera."""
    rng = np.random.default_rng(0)
    keys = [(p, c, n) for p in range(people) for c in range(cameras) for n in range(2)]
    names = [f"cam_{c}/{p}_{n}.png" for p, c, n in keys]
    names[0] = f"cam_0/{EVIL}"
    for (person, camera, _), name in zip(keys, names, strict=True):
        path = folder / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 20, 3), 40 * camera + 60, dtype=np.uint8)
        pixels[:, :, person % 3] = 25 * person
        Image.fromarray(pixels).save(path)
    person = rng.normal(size=(people, 12))[[p for p, _, _ in keys]]
    camera = rng.normal(size=(cameras, 12))[[c for _, c, _ in keys]]
    noise = rng.normal(size=(len(keys), 12))
    after_rows = rng.permutation(len(keys))  # the order of rows may differ
    for when, strength, rows in (("before", 1.5, np.arange(len(keys))), ("after", 0.3, after_rows)):
        x = person + strength * camera + 0.5 * noise
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        table = EmbeddingTable(
            texts([names[i] for i in rows]),
            texts([f"cam_{keys[i][1]}" for i in rows]),
            x[rows],
            texts([f"{keys[i][0]:04d}" for i in rows]) if labelled else None,
            {"root": str(folder / "crops"), "model": f"model {when}"},
        )
        write_embeddings(folder / f"{when}.npz", table)
    return folder
