"""Files of the wrong kinds, and a command line whose outcome is looked at."""

from __future__ import annotations

import os
from pathlib import Path

from embae_plugin.commands.main import main

JUNK = bytes(range(255, -1, -1)) * 2
KINDS = ("missing", "empty", "junk", "text", "zip", "folder", "loop", "below a file", "nul")


def wrong_file(folder: Path, kind: str, suffix: str = "") -> str:
    """The path of something in ``folder`` that is no file of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ä {kind}{suffix}"
    content = {"empty": b"", "junk": JUNK, "text": b"hello, world\n", "zip": b"PK\3\4" + JUNK}
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        os.symlink(path.name, path)
    elif kind == "below a file":
        (folder / "file").write_bytes(b"mine")
        path = folder / "file" / path.name
    elif kind == "nul":
        return f"{path}\0"
    return str(path)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content; None for what is no regular file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(capsys, *words: object) -> str:
    """Runs a command that must end with status 2; returns the one message it gives.

    Anything but a ValueError, OSError or ImportError of the package would pass ``main`` and fail
    the test, as would a second message.
    """
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("embae: ")]
    assert len(lines) == 1 and len(lines[0]) > len("embae: ") + 5
    return error
