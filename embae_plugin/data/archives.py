"""Unpacks zip and tar archives that come from elsewhere, without trusting the names in them."""

from __future__ import annotations

import errno
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from embae_plugin.progress import progress

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
# What else a damaged archive leads to: names that no files can have, or two alike; places before
# its beginning; and None, of gzip and bz2.
_ITS_FAULT = {None, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL,
              errno.EILSEQ}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the regular files of a zip or tar archive (also compressed) into ``folder``.

    Raises:
        ValueError: not an archive (a web page, say), a damaged one, one with a password, or one
            with a name that leads out of the folder.
        OSError: there is not enough room on the disk.
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                infos = [info for info in file.infolist() if not info.is_dir()]
                # Some come from Windows.
                members = {i.filename.replace("\\", "/"): (i, i.file_size) for i in infos}
                _extract(file.open, members, archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _extract(tar.extractfile, {i.name: (i, i.size) for i in tar if i.isreg()}, archive,
                         folder)
        else:
            raise ValueError(_what_instead(archive))
    except _DAMAGED as error:
        raise ValueError(f"{archive.name} is a damaged archive: {error}") from error
    except OSError as error:
        if error.errno not in _ITS_FAULT:
            raise
        raise ValueError(f"{archive.name} is a damaged archive: {error}") from error
    except RuntimeError as error:  # a password, or a compression that Python lacks
        raise ValueError(
            f"{archive.name} can't be unpacked ({error}); unpack it by hand"
        ) from error


def _extract(
    read: Callable[[Any], IO[bytes] | None], members: dict[str, tuple[Any, int]], archive: Path,
    folder: Path,
) -> None:
    """Writes the content of members, which are given by name as (member, size).

    Nothing else of them is taken over: no owner, no permissions, no links.
    """
    for name in members:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or ":" in name or not path.parts:
            raise ValueError(
                f"{archive.name} has a file named {name!r}, which leads out of the folder it is "
                "unpacked into: it was not unpacked"
            )
    need, free = sum(size for _, size in members.values()), shutil.disk_usage(folder).free
    if need > free:
        said = f"{archive.name} needs {need:,} bytes unpacked, but {folder} has {free:,}"
        raise OSError(errno.ENOSPC, said)
    for name, (member, _) in progress(members.items(), "unpacking", unit="file"):
        place, source = folder / name, read(member)
        if source is None:
            raise tarfile.ReadError(f"{name} is no regular file")
        place.parent.mkdir(parents=True, exist_ok=True)
        with source, place.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


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
