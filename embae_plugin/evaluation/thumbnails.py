"""Crops as small pictures: inside a page, and as a sheet of what each camera sees."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from embae_plugin.atomic_file import replacing
from embae_plugin.data.records import ReIDData

logger = logging.getLogger(__name__)

_EACH = 7  # crops of a camera on a sheet


def jpeg_address(file: str | Path, width: int, height: int) -> str:
    """An image, of so many pixels at most, as the text of a data address; "" if unreadable."""
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except Exception as error:  # a damaged file fails in many ways; the page is of use without it
        logger.debug("no thumbnail of %s: %s", file, error)
        return ""
    small.thumbnail((width, height))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def save_camera_sheet(path: str | Path, data: ReIDData) -> None:
    """Writes a PNG with one column of crops for each camera, sources first, then the target.

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
            name = names[int(records.dsetids[members[0]])].removeprefix("synthetic_")
            title = f"{name}\ncamera {int(records.camids[members[0]]) + 1}"
            chosen = members[np.linspace(0, len(members) - 1, _EACH).astype(int)]
            columns.append((title, colour, [records.paths[i] for i in chosen]))
    figure = Figure(figsize=(len(columns), 1.95 * _EACH + 0.7))
    grid = figure.subplots(_EACH, len(columns), squeeze=False)
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
