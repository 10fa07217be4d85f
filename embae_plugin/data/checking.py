"""Tells for each data set whether it is complete, and what is missing; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.generation import read_metadata
from embae_plugin.data.datasets.synthetic import planned_items
from embae_plugin.data.layouts import READERS, count
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
    state = "differs" if found != source.published else "complete"
    if problems:
        state = "damaged"
    elif state == "differs":
        notes = [*notes, "other counts than published: scores on it don't compare with others'"]
    return found_here(state, found=found, messages=(*problems, *notes))


def check_all(root: str | Path, names: Sequence[str] = ()) -> list[Check]:
    """Checks ``names``, or all data sets if there are none.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: ``root`` is not a folder.
    """
    if not Path(root).expanduser().is_dir():
        raise FileNotFoundError(f"--root {root} is not a folder; name the one with the data sets")
    bar = tqdm(names or CHECKED, desc="checking", unit="set", disable=None, leave=False)
    return [check(name, root) for name in bar]


def _check_built_in(name: str, folder: Path) -> Check:
    """A set that this package draws, against what its own plan says."""
    found_here = partial(Check, name, str(folder))
    if not folder.is_dir() or not any(folder.iterdir()):
        return found_here("built in", messages=("drawn when it is first used",))
    try:
        metadata = read_metadata(folder)
        scale, seed = metadata["scale"], metadata["seed"]
        subsets = planned_items(folder)
    except (ValueError, OSError) as error:
        return found_here("damaged", messages=(str(error),))
    published = {
        part: count(((pid, camera) for _, pid, camera in items), nobody=(0,))
        for part, items in subsets.items()
    }
    found = {
        part: count(((pid, cam) for path, pid, cam in items if Path(path).is_file()), nobody=(0,))
        for part, items in subsets.items()
    }
    note = [f"drawn with scale {scale:g}, seed {seed}"] if (scale, seed) != (1.0, 0) else []
    state = "complete"
    if found != published:
        state, note = "damaged", [*note, f"remove {folder} and it will be drawn anew"]
    return found_here(state, found=found, published=published, messages=tuple(note))


def table(checks: Sequence[Check], root: str | Path) -> str:
    """One line for each part of each data set, found and published counts; then what to do."""
    base = Path(root).expanduser().absolute()
    rows: list[list[str]] = []
    for item in checks:
        folder = Path(item.folder)
        shown = str(folder.relative_to(base)) if folder.is_relative_to(base) else str(folder)
        state = item.state
        if item.name in SOURCES and SOURCES[item.name].withdrawn:
            state += " (withdrawn)"
        parts = list(dict.fromkeys([*item.published, *item.found])) or [""]
        for k, part in enumerate(parts):
            head = [item.name, shown, state] if k == 0 else ["", "", ""]
            pairs = zip(_numbers(item.found, part), _numbers(item.published, part), strict=True)
            rows.append([*head, part, *(" / ".join(pair) if part else "" for pair in pairs)])
    headers = ["data set", "folder", "state", "part"]
    headers += [f"{what} (of)" for what in ("images", "identities", "cameras")]
    align = ["left"] * 4 + ["right"] * 3
    lines = [tabulate(rows, headers=headers, colalign=align, disable_numparse=True), ""]
    lines += [f"{item.name}: {message}" for item in checks for message in item.messages]
    return "\n".join(lines).rstrip()


def _numbers(counts: dict[str, Counts], part: str) -> list[str]:
    return [f"{number:,}" for number in counts[part]] if part in counts else ["–"] * 3
