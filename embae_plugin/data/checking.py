"""Tells for each data set whether it is complete, and what is missing; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tabulate import tabulate

from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.generation import read_metadata
from embae_plugin.data.datasets.synthetic import planned_items
from embae_plugin.data.layouts import READERS, count
from embae_plugin.progress import progress
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Counts, how_to_get

CHECKED: tuple[str, ...] = (*READERS, *SPECS)
"""Names that can be checked: the paper's data sets, CUHK01, and the built-in ones."""


@dataclass(frozen=True)
class Check:
    """What was found of one data set.

    state: "complete"; "differs" (readable, but other counts than published, such as a subset);
    "damaged" (files that can't be used); "incomplete" (parts are missing); "missing"; "built in"
    (not drawn yet, needs nothing). found, published: counts for each part. messages: what is
    wrong and what to do, or what is worth knowing.
    """

    name: str
    folder: str
    state: str
    found: dict[str, Counts] = field(default_factory=dict)
    published: dict[str, Counts] = field(default_factory=dict)
    messages: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is as published; a built-in set that is yet to be drawn is, too."""
        return self.state in ("complete", "built in")


def check(name: str, root: str | Path) -> Check:
    """Checks one data set below ``root``.

    Raises:
        ValueError: the name is none of :data:`CHECKED`.
    """
    if name not in CHECKED:
        raise ValueError(f"unknown data set '{name}', expected one of {', '.join(CHECKED)}")
    root = Path(root).expanduser().absolute()
    if name in SPECS:
        return _check_built_in(name, root / name)
    source, folder = SOURCES[name], root / SOURCES[name].folder
    if name == "ward" and root.is_dir():  # Unlike torchreid, its loader takes any case.
        folder = next((f for f in sorted(root.iterdir()) if f.name.lower() == name), folder)
    found_here = partial(Check, name, str(folder), published=source.published)
    advice = how_to_get(name, root)
    if not folder.is_dir():
        return found_here("missing", messages=(advice,))
    try:
        found, problems, notes = READERS[name](folder)
    except OSError as error:
        return found_here("incomplete", messages=(f"{error}. {advice}",))
    if problems:
        return found_here("damaged", found, messages=(*problems, *notes))
    if found == source.published:
        return found_here("complete", found, messages=tuple(notes))
    note = "other counts than published: scores on it don't compare with others'"
    return found_here("differs", found, messages=(*notes, note))


def check_all(root: str | Path, names: Sequence[str] = ()) -> list[Check]:
    """Checks ``names``, or all data sets if there are none.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: ``root`` is not a folder.
    """
    if not Path(root).expanduser().is_dir():
        raise FileNotFoundError(f"--root {root} is not a folder; name the one with the data sets")
    return [check(name, root) for name in progress(names or CHECKED, "checking", unit="set")]


def _check_built_in(name: str, folder: Path) -> Check:
    """A set that this package draws, against what its own plan says."""
    if not folder.is_dir() or not any(folder.iterdir()):
        message = "drawn when it is first used"
        return Check(name, str(folder), "built in", messages=(message,))
    try:
        metadata, subsets = read_metadata(folder), planned_items(folder)
    except (ValueError, OSError) as error:
        return Check(name, str(folder), "damaged", messages=(str(error),))

    def counts(drawn: bool) -> dict[str, Counts]:
        return {
            part: count(((i[1], i[2]) for i in items if not drawn or Path(i[0]).is_file()), (0,))
            for part, items in subsets.items()
        }

    published, found = counts(drawn=False), counts(drawn=True)
    scale, seed = metadata["scale"], metadata["seed"]
    notes = [f"drawn with scale {scale:g}, seed {seed}"] if (scale, seed) != (1.0, 0) else []
    if found == published:
        return Check(name, str(folder), "complete", found, published, tuple(notes))
    notes.append(f"remove {folder} and it will be drawn anew")
    return Check(name, str(folder), "damaged", found, published, tuple(notes))


def table(checks: Sequence[Check], root: str | Path) -> str:
    """One line for each part of each data set, found and published counts; then what to do."""
    base = Path(root).expanduser().absolute()
    rows: list[list[str]] = []
    for item in checks:
        withdrawn = item.name in SOURCES and SOURCES[item.name].withdrawn
        state = f"{item.state} (withdrawn)" if withdrawn else item.state
        head = [item.name, os.path.relpath(item.folder, base), state]
        for part in dict.fromkeys([*item.published, *item.found]) or [""]:
            pairs = zip(_numbers(item.found, part), _numbers(item.published, part), strict=True)
            rows.append([*head, part, *(" / ".join(pair) if part else "" for pair in pairs)])
            head = [""] * 3
    headers = ["data set", "folder", "state", "part"]
    headers += [f"{what} (of)" for what in ("images", "identities", "cameras")]
    align = ["left"] * 4 + ["right"] * 3
    lines = [tabulate(rows, headers=headers, colalign=align, disable_numparse=True), ""]
    lines += [f"{item.name}: {message}" for item in checks for message in item.messages]
    return "\n".join(lines).rstrip()


def _numbers(counts: dict[str, Counts], part: str) -> list[str]:
    return [f"{number:,}" for number in counts[part]] if part in counts else ["–"] * 3
