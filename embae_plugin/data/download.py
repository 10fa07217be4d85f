"""Fetches a data set's archive, checks it, and only then gives it its place; never overwrites.

Everything happens in a hidden folder under the root, which goes away whatever happens.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from embae_plugin.data.archives import unpack
from embae_plugin.data.checking import Check, check
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.generation import in_use
from embae_plugin.data.layouts import READERS
from embae_plugin.fetching import fetch_file, file_digest
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Download, Source, by_hand


def get_dataset(name: str, root: str | Path, url: str = "", digest: str = "") -> Check:
    """Fetches data set ``name`` into its folder below ``root``.

    Args:
        root: folder that holds the data sets' own folders; made if it is not there.
        url: of the caller's copy: an address, a Google Drive link or id, or an archive on this
            machine. Empty for what the authors offer, where they do.
        digest: "md5:HEX" or "sha256:HEX" that the archive must have, empty for any.

    Returns:
        the check of what is now there; its state is "complete".

    Raises:
        ValueError: an unknown or built-in name; nothing to fetch it from; a wrong checksum; not an
            archive, or without the data set, or with other counts than published.
        FileExistsError: the data set's folder is there already.
        OSError: the download failed, or the disk is full.
    """
    if name in SPECS:
        raise ValueError(f"'{name}' is built in: it is drawn when it is first used")
    if name not in READERS:
        raise ValueError(f"unknown data set '{name}', expected one of {', '.join(READERS)}")
    source = SOURCES[name]
    root = Path(root).expanduser().absolute()
    place = root / source.folder
    if in_use(place):
        raise FileExistsError(
            f"{place} is there already and is never overwritten: embae data check {name} "
            f"--root {root} tells what is in it; move it away to fetch it anew"
        )
    archive = _archive(name, source, root, url, digest)
    root.mkdir(parents=True, exist_ok=True)
    advice = f"By hand: {by_hand(name, root)}"
    with tempfile.TemporaryDirectory(
        prefix=f".{name}.", dir=root, ignore_cleanup_errors=True
    ) as folder:
        work = Path(folder)
        unpacked, staged = work / "unpacked", work / "staged"
        path = _fetched(archive, work, advice)
        try:
            unpack(path, unpacked)
        except ValueError as error:
            raise ValueError(f"{archive.url}: {error}. {advice}") from error
        _arrange(source, unpacked, staged / source.folder, work, advice)
        result = check(name, staged)
        if result.state != "complete":
            found, published = (
                ", ".join(f"{part} {tuple(counts)}" for part, counts in parts.items()) or "nothing"
                for parts in (result.found, result.published)
            )
            why = "; ".join(result.messages).replace(str(staged), str(root))
            raise ValueError(
                f"what {archive.url} holds is no complete {source.title} and was not kept: "
                f"{result.state}, found {found}, published {published}; {why}"
            )
        os.replace(staged / source.folder, place)
    return check(name, root)


def _archive(name: str, source: Source, root: Path, url: str, digest: str) -> Download:
    """What to fetch: the caller's copy or the authors' own."""
    if not url and source.archive:
        return source.archive._replace(digest=digest or source.archive.digest)
    if not url:
        raise ValueError(
            f"there is no download of {source.title} to start. {by_hand(name, root)}. An "
            f"archive that you have: embae data get {name} --root {root} --url FILE"
            + ("" if source.withdrawn else "_OR_ADDRESS")
        )
    path = Path(url).expanduser()
    if path.is_file():
        return Download(str(path.absolute()), digest, "archive")
    if source.withdrawn:
        raise ValueError(f"{source.how}. --url takes an archive on this machine only here")
    return Download(drive_link(url), digest, "archive")


def drive_link(url: str) -> str:
    """The direct link of a Google Drive id or sharing link; any other address as it is.

    gdown's versions differ in which of Drive's links they understand; all take this one.
    """
    if re.fullmatch(r"[-\w]{20,}", url):
        return f"https://drive.google.com/uc?id={url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"--url {url}: no such file, and neither an address nor a Drive id")
    match = re.match(r"/file/(?:u/\d+/)?d/([-\w]+)", parts.path)
    if parts.hostname != "drive.google.com" or match is None:
        return url
    query = {"id": match[1]}
    if key := parse_qs(parts.query).get("resourcekey"):
        query["resourcekey"] = key[0]
    return f"https://drive.google.com/uc?{urlencode(query)}"


def _fetched(file: Download, folder: Path, advice: str) -> Path:
    """``file`` on this machine, its digest checked."""
    path = Path(file.url)
    if not path.is_absolute():
        path = folder / file.name
        try:
            fetch_file(file.url, path)
        except OSError as error:
            raise OSError(f"fetching {file.url} failed ({error}). {advice}") from error
    kind, _, wanted = file.digest.lower().partition(":")
    if wanted and (digest := file_digest(path, kind)) != wanted:
        raise ValueError(
            f"{file.url} has {kind} {digest}, not {wanted}: another or a damaged file, not used. "
            f"{advice}"
        )
    return path


def _arrange(source: Source, unpacked: Path, place: Path, work: Path, advice: str) -> None:
    """Moves the data set's folder out of ``unpacked``, and what belongs beside it, to ``place``."""
    found = _find_marks(unpacked, source.marks)
    if found is None:
        top = ", ".join(sorted(os.listdir(unpacked))[:5]) or "nothing"
        raise ValueError(f"the archive is not {source.title}: it holds {top}. {advice}")
    target = place / source.inner
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in source.extras:
        path = next(unpacked.rglob(file.name), None) or _fetched(file, work, advice)
        os.replace(path, place / file.name)
    os.replace(found, target)


def _find_marks(top: Path, marks: tuple[str, ...]) -> Path | None:
    """The first folder, nearest to the top, in which each of ``marks`` fits some entry's name."""
    folders = [top]
    for folder in folders:  # which grows on the way, level by level
        entries = sorted(folder.iterdir())
        if all(any(re.fullmatch(mark, entry.name) for entry in entries) for mark in marks):
            return folder
        inside = (entry for entry in entries if entry.is_dir())
        folders += [entry for entry in inside if not entry.name.startswith((".", "__MACOSX"))]
    return None
