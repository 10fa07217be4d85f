"""The methods there are, as the end of a command's help."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping


def rows_help(title: str, rows: Mapping[str, str]) -> str:
    """A title and a line for each name with what it stands for."""
    width = max(map(len, rows), default=0) + 2
    lines = [
        textwrap.fill(f"  {name:<{width}}{text}", 88, subsequent_indent=" " * (width + 2))
        for name, text in rows.items()
    ]
    return "\n".join([title, *lines, "All settings: docs/settings.md"])
