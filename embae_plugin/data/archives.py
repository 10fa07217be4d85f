"""Unpacks zip and tar archives that come from elsewhere, without trusting the names in them."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

_HEAD = 1024


class Member(NamedTuple):
    """A regular file in an archive: its name there, its size unpacked, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


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
                _write(list(_zip_members(file)), archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _write(list(_tar_members(tar)), archive, folder)
        else:
            raise ValueError(_what_instead(archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{archive.name} is a damaged archive: {error}") from error
    except RuntimeError as error:  # a password, or a compression that Python lacks
        raise ValueError(
            f"{archive.name} can't be unpacked ({error}); unpack it by hand"
        ) from error


def _zip_members(file: zipfile.ZipFile) -> Iterator[Member]:
    for info in file.infolist():
        kind = (info.external_attr >> 28) & 0xF
        if not info.is_dir() and kind in (0, 8):  # unknown, or a regular file
            yield Member(info.filename, info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar.getmembers():
        if info.isreg():
            yield Member(info.name, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc]


def _write(members: list[Member], archive: Path, folder: Path) -> None:
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.name or not path.parts:
            raise ValueError(
                f"{archive.name} has a file named {member.name!r}, which leads out of the folder "
                "it is unpacked into: it was not unpacked"
            )
    need, free = sum(member.size for member in members), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"{archive.name} needs {need:,} bytes unpacked, but {folder} has {free:,}")
    bar = tqdm(members, desc="unpacking", unit="file", disable=None, leave=False)
    for member in bar:
        target = folder / member.name.replace("\\", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        content = member.open()
        if content is not None:
            with content, target.open("wb") as output:
                shutil.copyfileobj(content, output, 1 << 20)


def _what_instead(path: Path) -> str:
    """Why a file is no archive."""
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            f"{path.name} is a web page, not an archive: the address is that of a page (a form, a "
            "sign-in or a notice); open it in a browser and fetch the file there"
        )
    return f"{path.name} is neither a zip nor a tar archive (or only a part of one)"
