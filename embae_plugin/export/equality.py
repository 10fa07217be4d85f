"""Whether an exported file computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from embae_plugin.data.camera_rules import find_images
from embae_plugin.data.single_images import decoded
from embae_plugin.export.formats import Floats, ImagesToEmbeddings, Runner
from embae_plugin.models.input_spec import InputSpec

TOLERANCE = 1e-4


def some_images(places: Sequence[str], limit: int) -> list[Path]:
    """At most ``limit`` image files out of files and folders, evenly spread, in their order.

    Raises:
        FileNotFoundError, ValueError: a place is not there, or holds no image.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"--check {place} does not exist")
        found += [place / name for name in find_images(place)] if place.is_dir() else [place]
    return [found[round(n)] for n in np.linspace(0, len(found) - 1, min(limit, len(found)))]


def unit_images(paths: Sequence[Path], spec: InputSpec) -> Floats:
    """Files as (N, 3, H, W) float32 in [0, 1], as an exported model takes them.

    Raises:
        CorruptImageError: lists the files that cannot be decoded.
    """
    pixels = decoded([str(path) for path in paths], spec).transpose(0, 3, 1, 2)
    images: Floats = np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(255)
    return images


@torch.inference_mode()
def largest_difference(
    graph: ImagesToEmbeddings, run: Runner, images: Floats, cameras: int = 0
) -> float:
    """The largest absolute difference over all values of all embeddings.

    Batches of 1, 2, 3, … images are compared, so that a batch size left fixed by mistake shows;
    for a model of several cameras, each image is of another one, an unseen one among them.

    Raises:
        ValueError: embeddings of another shape, or that are no numbers.
    """
    worst, start, size = 0.0, 0, 1
    while start < len(images):
        batch = images[start : start + size]
        camera = np.arange(start, start + len(batch)) % (cameras + 1) - 1
        expected = graph(torch.from_numpy(batch), torch.from_numpy(camera)).numpy()
        given = run(batch, camera)
        if given.shape != expected.shape or not np.isfinite(given).all():
            raise ValueError(
                f"the exported file gives {given.shape} values for {len(batch)} images, some "
                f"of them perhaps not finite; the model gives {expected.shape}"
            )
        worst = max(worst, float(np.abs(given - expected).max()))
        start, size = start + size, min(size + 1, 16)
    return worst
