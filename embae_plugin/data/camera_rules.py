"""Three rules that tell which camera took a crop.

They are the folder directly below the root (``gate/2024/x.jpg`` is of camera ``gate``), a regular
expression on the file's path, or a column of a table.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from embae_plugin.data.crops import Crops, natural_order

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_OTHER_IMAGES = (".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".jfif", ".mp4", ".avi")
_LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir")  # macOS, Synology
# Names in which well-known data sets say the camera.
_USUAL = (r"_c(?P<camera>\d+)", r"(?i)cam(?:era)?[-_]?(?P<camera>\w+?)[-_./]")


def find_images(root: str | Path) -> list[str]:
    """Paths of all images below ``root``, relative to it, in natural order.

    Links are followed, each folder once, so that loops end. Hidden files and folders are passed
    over; so is what is no image (``Thumbs.db``), and image formats that are not read are warned of.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        PermissionError: a folder may not be read.
        ValueError: there are no images in it.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"the folder of images {root} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: give the folder that holds the images")
    found: list[str] = []
    unread: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, onerror=_raise, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:  # under another name
            subfolders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        subfolders[:] = sorted(n for n in subfolders if n[0] != "." and n not in _LEFT_BY_SYSTEMS)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES and name[0] != ".":
                found.append(os.path.relpath(os.path.join(folder, name), root))
            elif suffix in _OTHER_IMAGES and name[0] != ".":
                unread[suffix] += 1
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
    if unread:
        logger.warning("%s: passed over, not being of a format that is read: %s", root, kinds)
    if not found:
        raise ValueError(
            f"there are no images in {root}: looked for {', '.join(SUFFIXES)} in it and below"
            + (f", and found only {kinds}" if unread else "")
        )
    return sorted(found, key=natural_order)


def _raise(error: OSError) -> None:
    raise error


def crops_by_folder(root: str | Path) -> Crops:
    """Crops whose camera is the folder directly below ``root``.

    Raises:
        ValueError: images lie in ``root`` itself, where nothing tells their camera.
    """
    names = find_images(root)
    loose = [name for name in names if os.path.dirname(name) == ""]
    if loose:
        where = "all" if len(loose) == len(names) else f"{len(loose)} of {len(names)}"
        raise ValueError(
            f"{where} images lie directly in {root} (such as {loose[0]}), where no folder tells "
            "their camera. Put each camera's images in a folder of its own "
            f"({Path(root).name}/gate/…, {Path(root).name}/yard/…), or tell the camera from the "
            f"name with --camera-regex{_suggestion(loose)}, or list them with --csv"
        )
    return Crops(Path(root), tuple(names), tuple(name.split(os.sep, 1)[0] for name in names))


def _suggestion(names: Sequence[str]) -> str:
    """A regular expression of well-known data sets that fits all names, as an advice."""
    for pattern in _USUAL:
        found = [re.search(pattern, name) for name in names]
        if all(found) and len({match["camera"] for match in found if match}) > 1:
            return f" '{pattern}' (which fits all of these)"
    return " 'c(?P<camera>\\d+)'"


def camera_rule(pattern: str) -> re.Pattern[str]:
    """A regular expression that finds a camera's name by its group ``camera``.

    Raises:
        ValueError: no regular expression, or one without that group.
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--camera-regex {pattern!r} is no regular expression: {error}") from None
    if "camera" not in rule.groupindex:
        raise ValueError(
            f"--camera-regex {pattern!r} has no group named camera: write (?P<camera>…) around "
            "the camera's name, as in '_c(?P<camera>\\d+)'"
        )
    return rule


def _crops_by_regex(root: str | Path, pattern: str) -> Crops:
    """Crops whose path fits a :func:`camera_rule`; the others are left out and listed."""
    rule, names = camera_rule(pattern), find_images(root)
    found = {name: rule.search(name.replace(os.sep, "/")) for name in names}
    cameras = {name: match["camera"] for name, match in found.items() if match and match["camera"]}
    if not cameras:
        shown = "".join(f"\n  {name}" for name in names[:3])
        raise ValueError(
            f"--camera-regex {pattern!r} fits none of the {len(names)} images in {root}, "
            f"such as{shown}"
        )
    missed = [str(Path(root) / name) for name in names if name not in cameras]
    skipped = [(path, "--camera-regex tells no camera") for path in missed]
    return Crops(Path(root), tuple(cameras), tuple(cameras.values()), skipped=skipped)


def _crops_by_csv(table: Path, root: str | Path) -> Crops:
    """Crops listed in a table, whose paths count from ``root`` or else from the table's folder."""
    if not table.is_file():
        raise FileNotFoundError(f"the table {table} does not exist")
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is not a table of UTF-8 text: {error}") from None
    for column in ("path", "camid"):
        if column not in columns:
            raise ValueError(
                f"{table} has no column {column}: its first line must be path,camid or "
                f"path,camid,pid, and is {','.join(columns) or 'empty'}"
            )
    folder = Path(root) if root else table.parent
    lines: dict[str, int] = {}
    cameras, pids = [], []
    for line, row in rows:
        path, camera, pid = ((row.get(key) or "").strip() for key in ("path", "camid", "pid"))
        if not path or not camera:
            raise ValueError(f"{table}, line {line}: path or camid is empty")
        try:
            path = _name_here(folder, path)
        except ValueError as error:
            raise ValueError(f"{table}, line {line}: {error}") from None
        if path in lines:
            raise ValueError(f"{table}, line {line}: {path} is on line {lines[path]} already")
        lines[path] = line
        cameras.append(camera)
        pids.append(pid)
    if not rows:
        raise ValueError(f"{table} lists no images")
    return Crops(folder, tuple(lines), tuple(cameras), tuple(pids) if any(pids) else None)


def _name_here(folder: Path, path: str) -> str:
    """A path as this system writes it, where it was written on another one.

    Backslashes become slashes, and letters with accents are taken in either of Unicode's two
    forms, where the file is found that way alone.

    Raises:
        ValueError: it begins with a drive of Windows.
    """
    if path.isascii() and "\\" not in path and path[1:2] != ":":
        return path
    slashed = path.replace("\\", "/")
    other = [normalize(form, slashed) for form in ("NFC", "NFD")]
    found = next((one for one in (path, slashed, *other) if os.path.lexists(folder / one)), None)
    if found is None and os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", path):
        raise ValueError(f"{path} begins with a drive of Windows: write paths that count from "
                         "--images, or from the table's folder")
    return path if found is None else found


def list_crops(images: str | Path = "", table: str | Path = "", camera_regex: str = "") -> Crops:
    r"""Crops by whichever rule is given; see also :func:`crops_by_folder`.

    Args:
        images: the folder of images.
        table: a UTF-8 file with a header, ``path,camid`` and, if known, ``pid``: any text, empty
            where unknown, for scoring alone. Paths count from ``images``, or else from the
            table's folder; see :func:`_name_here` for those written on another system.
        camera_regex: searched for anywhere in the path below ``images`` (``/`` between folders),
            for example ``_c(?P<camera>\d+)``. What it does not fit is left out and listed.

    Raises:
        FileNotFoundError: no such table or folder.
        PermissionError: a folder may not be read.
        ValueError: two rules, no images, an expression that fits none, a table without a column,
            with an incomplete line, or with a path listed twice.
    """
    if table and camera_regex:
        raise ValueError("give --csv or --camera-regex, not both: the table names the cameras")
    if table:
        return _crops_by_csv(Path(table), images)
    if not images:
        raise ValueError("name the folder of images with --images, or a table with --csv")
    return _crops_by_regex(images, camera_regex) if camera_regex else crops_by_folder(images)
