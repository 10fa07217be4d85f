"""Crops as small pictures inside a page."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

from PIL import Image

logger = logging.getLogger(__name__)


def jpeg_address(file: str | Path, width: int, height: int, stretch: bool = False) -> str:
    """An image as the text of a data address, or "" if it cannot be read.

    Args:
        width, height: the picture's size at most, in pixels.
        stretch: give it exactly that size, whatever the image's shape.
    """
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except Exception as error:  # a damaged file fails in many ways; the page is of use without it
        logger.debug("no thumbnail of %s: %s", file, error)
        return ""
    if stretch:
        small = small.resize((width, height), Image.Resampling.LANCZOS)
    else:
        small.thumbnail((width, height))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
