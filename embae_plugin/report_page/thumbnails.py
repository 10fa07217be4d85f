"""Crops as small pictures inside the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SIZE = (64, 128)
_QUALITY = 76


class Thumbnails:
    """JPEG data URIs of images, each made once.

    Args:
        root: what paths count from.

    Attributes:
        missing: paths that could not be read.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.missing: set[str] = set()
        self._made: dict[str, str] = {}

    @property
    def count(self) -> int:
        """Pictures made."""
        return len(self._made) - len(self.missing)

    def uri(self, path: str) -> str:
        """The picture, or an empty string if the file cannot be read."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: str) -> str:
        try:
            with Image.open(self.root / path) as image:
                small = image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            self.missing.add(path)
            return ""
        out = io.BytesIO()
        small.save(out, "JPEG", quality=_QUALITY, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
