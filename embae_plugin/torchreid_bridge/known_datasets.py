"""The public data sets: where each comes from, where it has to lie, and what it should contain.

Only what its own authors offer counts as a download: Market-1501, through the Google Drive link on
their page, and the split files of CUHK03. The other links in torchreid are dead or lead to data
that was withdrawn; CUHK01, CUHK03, VIPeR and WARD are to be had from their authors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Counts(NamedTuple):
    """How much there is: images, identities (distractors are none) and cameras."""

    images: int
    ids: int
    cams: int


class Download(NamedTuple):
    """A file that its authors offer: address, digest ("md5:…" or "sha256:…"), and its name."""

    url: str
    digest: str
    name: str


@dataclass(frozen=True)
class Source:
    """One data set of torchreid's zoo, or WARD."""

    how: str  # to get it, in words
    layout: str  # what is expected below the root
    title: str = ""
    folder: str = ""  # its own folder below the root
    inner: str = ""  # the folder inside that one which holds the marks
    marks: tuple[str, ...] = ()  # patterns, each of which fits a name in the data set's folder
    published: dict[str, Counts] = field(default_factory=dict)  # of each part, without junk
    archive: Download | None = None  # the authors' own file, if there is one to download
    extras: tuple[Download, ...] = ()  # small files that belong beside the archive's content
    withdrawn: bool = False  # its authors have taken it back


def _read(entry: dict[str, Any]) -> Source:
    """A source from its entry in the file."""
    archive, extras = entry.get("archive"), entry.get("extras", ())
    published = {part: Counts(*counts) for part, counts in entry.get("published", {}).items()}
    return Source(**{
        **entry, "marks": tuple(entry.get("marks", ())), "published": published,
        "archive": Download(**archive) if archive else None,
        "extras": tuple(Download(**file) for file in extras),
    })


_TEXT = Path(__file__).with_name("known_datasets.yaml").read_text(encoding="utf-8")
SOURCES = {name: _read(entry) for name, entry in yaml.safe_load(_TEXT).items()}


def by_hand(name: str, root: str | Path) -> str:
    """One or two sentences: where to get dataset ``name`` and where to put it below ``root``."""
    if name not in SOURCES:
        return f"See torchreid's docs/datasets.rst for how to get '{name}' and how to lay it out"
    source = SOURCES[name]
    return f"{source.how}; expected: {Path(root).expanduser().absolute() / source.layout}"


def how_to_get(name: str, root: str | Path) -> str:
    """As :func:`by_hand`, with the command that fetches it, if there is one."""
    if name in SOURCES and SOURCES[name].archive:
        return f"Run: embae data get {name} --root {root}. Or by hand: {by_hand(name, root)}"
    return by_hand(name, root)
