"""Crops as small pictures inside the page."""

from __future__ import annotations

from pathlib import Path

from embae_plugin.evaluation.thumbnails import jpeg_address

SIZE = (64, 128)


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
            self._made[path] = jpeg_address(self.root / path, *SIZE, stretch=True)
            if not self._made[path]:
                self.missing.add(path)
        return self._made[path]
