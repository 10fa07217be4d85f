"""Files from the network, also from Google Drive, and their digests."""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gdown

from embae_plugin.progress import Progress

logger = logging.getLogger(__name__)


def fetch_file(url: str, path: Path) -> None:
    """Downloads a file to ``path``.

    Raises:
        OSError: it failed; says why.
    """
    logger.info("fetching %s", url)
    # Old versions of gdown wait for ever, and have no option not to.
    timed = "timeout" in inspect.signature(gdown.download).parameters
    options: dict[str, Any] = {"timeout": 60.0} if timed else {}
    quiet = not (Progress.bars and sys.stderr.isatty())  # else gdown draws a bar of its own
    try:
        with Progress(f"fetching {path.name}") if quiet else nullcontext():
            gdown.download(url, str(path), quiet=quiet, **options)
    except Exception as error:  # gdown and its HTTP library each have errors of their own
        raise OSError(reason_of(error)) from error
    if not path.is_file():  # an old gdown tells of a failure by returning None
        raise OSError("nothing came")


def reason_of(error: BaseException) -> str:
    """What failed at the bottom, such as a name that was not resolved."""
    root = error
    while root.__context__ is not None:
        root = root.__context__
    shown = root if isinstance(root, OSError) else error
    return " ".join(str(shown).split())[:200] or type(shown).__name__


def file_digest(path: Path, kind: str = "sha256") -> str:
    """The hexadecimal digest of a file, also ``md5``."""
    hasher = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
