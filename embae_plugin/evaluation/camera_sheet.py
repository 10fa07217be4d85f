"""A picture of the camera shift: what each camera of the sources and of the target sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from embae_plugin.atomic_file import replacing
from embae_plugin.data.records import ImageRecords, ReIDData


def _by_camera(records: ImageRecords, names: list[str], count: int) -> list[tuple[str, list[str]]]:
    """(title, paths) for each camera, ``count`` images evenly spread over its list."""
    groups = records.groups("camera").numpy()
    columns = []
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        chosen = members[np.linspace(0, len(members) - 1, count).astype(int)]
        first = members[0]
        title = f"{names[int(records.dsetids[first])]}\ncamera {int(records.camids[first]) + 1}"
        columns.append((title, [records.paths[i] for i in chosen]))
    return columns


def save_camera_sheet(path: str | Path, data: ReIDData, count: int = 7) -> None:
    """Writes a PNG with one column of crops for each camera, sources first, then the target.

    Args:
        path: of the picture.
        data: of a run; needs a target.
        count: crops in a column.

    Raises:
        ValueError: there is no target.
    """
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's choice

    if data.target_train is None:
        raise ValueError("a camera sheet compares sources with a target, and there is no target")
    columns = _by_camera(data.source, data.sources, count)
    sources = len(columns)
    columns += _by_camera(data.target_train, [data.target], count)
    figure = Figure(figsize=(len(columns), 1.95 * count + 0.7))
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, paths) in enumerate(columns):
        for row, name in enumerate(paths):
            with Image.open(name) as image:
                pixels = np.asarray(image.convert("RGB").resize((64, 128)))
            axes[row][column].imshow(pixels)
            axes[row][column].set_axis_off()
        colour = "tab:blue" if column < sources else "tab:red"
        axes[0][column].set_title(title.replace("synthetic_", ""), fontsize=7, color=colour)
    figure.suptitle("labelled sources (blue) and the unlabelled target (red)", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.02)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
