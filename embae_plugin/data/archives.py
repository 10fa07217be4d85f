"""Unpacks zip and tar archives that come from elsewhere, without trusting the names in them."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
Member = tuple[str, int, Callable[[], IO[bytes] | None]]  # name, size unpacked, how to open it
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the regular files of a zip or tar archive (also compressed) into ``folder``.

    Links and devices are left out.

    Raises:
        ValueError: not an archive (a web page, say), a damaged one, one with a password, or one
            with a name that leads out of the folder.
        OSError: there is not enough room on the disk.
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                infos = filter(_is_file, file.infolist())
                members = [(i.filename, i.file_size, partial(file.open, i)) for i in infos]
                _write(members, archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                files = [(i.name, i.size, partial(tar.extractfile, i)) for i in tar if i.isreg()]
                _write(files, archive, folder)
        else:
            raise ValueError(_what_instead(archive))
    except _DAMAGED as error:
        raise ValueError(f"{archive.name} is a damaged archive: {error}") from error
    except RuntimeError as error:  # a password, or a compression that Python lacks
        raise ValueError(
            f"{archive.name} can't be unpacked ({error}); unpack it by hand"
        ) from error


def _is_file(info: zipfile.ZipInfo) -> bool:
    kind = (info.external_attr >> 28) & 0xF
    return not info.is_dir() and kind in (0, 8)  # unknown, or a regular file


def _write(members: Sequence[Member], archive: Path, folder: Path) -> None:
    for name, _, _ in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name or not path.parts:
            raise ValueError(
                f"{archive.name} has a file named {name!r}, which leads out of the folder it is "
                "unpacked into: it was not unpacked"
            )
    need, free = sum(size for _, size, _ in members), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"{archive.name} needs {need:,} bytes unpacked, but {folder} has {free:,}")
    for name, _, opened in tqdm(members, "unpacking", unit="file", disable=None, leave=False):
        target, content = folder / name.replace("\\", "/"), opened()
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            with content, target.open("wb") as output:
                shutil.copyfileobj(content, output, 1 << 20)


def _what_instead(path: Path) -> str:
    """Why a file is no archive."""
    with path.open("rb") as file:
        page = file.read(1024).lstrip().lower().startswith(_PAGES)
    if page:
        return (
            f"{path.name} is a web page, not an archive: the address is that of a page (a form, a "
            "sign-in or a notice); open it in a browser and fetch the file there"
        )
    return f"{path.name} is neither a zip nor a tar archive (or only a part of one)"
