"""A picture of the camera shift: what each camera of the sources and of the target sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from embae_plugin.atomic_file import replacing
from embae_plugin.data.records import ReIDData


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
    columns = []  # title, its colour, files evenly spread over the camera's list
    for records, names, colour in ((data.source, data.sources, "tab:blue"),
                                   (data.target_train, [data.target], "tab:red")):
        groups = records.groups("camera").numpy()
        for group in range(int(groups.max()) + 1):
            members = np.flatnonzero(groups == group)
            name = names[int(records.dsetids[members[0]])].replace("synthetic_", "")
            title = f"{name}\ncamera {int(records.camids[members[0]]) + 1}"
            chosen = members[np.linspace(0, len(members) - 1, count).astype(int)]
            columns.append((title, colour, [records.paths[i] for i in chosen]))
    figure = Figure(figsize=(len(columns), 1.95 * count + 0.7))
    grid = figure.subplots(count, len(columns), squeeze=False)
    for axes, (title, colour, paths) in zip(grid.T, columns, strict=True):
        for place, path_of_crop in zip(axes, paths, strict=True):
            with Image.open(path_of_crop) as image:
                place.imshow(np.asarray(image.convert("RGB").resize((64, 128))))
            place.set_axis_off()
        axes[0].set_title(title, fontsize=7, color=colour)
    figure.suptitle("labelled sources (blue) and the unlabelled target (red)", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.02)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
