"""Files that are whole or absent: written next to their place, then renamed into it."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """An empty file next to ``path``; it becomes ``path`` if the block ends well, and goes if not.

    Unlike a file of ``tempfile``, which only its owner may read, it gets the permissions that
    any new file gets. Missing folders are made.

    Yields:
        the file's name; it ends as ``path`` does, for libraries that go by the ending.

    Raises:
        OSError: ``path`` is a folder, its folder cannot be written to, or the disk is full; names
            the file.
    """
    path = Path(path)
    if path.is_dir():
        said = "not written: it is a folder, name a file"
        raise IsADirectoryError(errno.EISDIR, said, os.fspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or f"the disk may be full ({error})"
        raise OSError(error.errno or 0, f"not written: {reason}", str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: str | Path) -> None:
    """Removes what a killed process left of ``path``; for a file with one writer."""
    path = Path(path)
    for draft in path.parent.glob(f".{'[0-9a-f]' * 8}.{glob.escape(path.name)}"):
        draft.unlink(missing_ok=True)
