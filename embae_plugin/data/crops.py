"""Unlabelled crops: which images there are, and which camera took each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embae_plugin.data.image_bank import shortened
from embae_plugin.data.records import ImageRecords

FEW = 50  # images of a camera, below which it is warned of


@dataclass(frozen=True)
class Crops:
    """N crops with their cameras.

    Attributes:
        root: the folder that names count from.
        names: N paths below ``root``, or absolute ones of images elsewhere.
        cameras: N camera names.
        pids: N identities as they were given, "" for an unknown one; None if there are none.
        skipped: (path, reason) of what was left out.
    """

    root: Path
    names: tuple[str, ...]
    cameras: tuple[str, ...]
    pids: tuple[str, ...] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Every camera once, numbers in names by their value: cam_2 before cam_10."""
        return tuple(sorted(set(self.cameras), key=natural_order))

    def counts(self) -> dict[str, int]:
        """Images of each camera."""
        counted = Counter(self.cameras)
        return {name: counted[name] for name in self.camera_names}

    def numbers(self) -> NDArray[np.int64]:
        """(N,) numbers of the cameras in :attr:`camera_names`."""
        table = {name: number for number, name in enumerate(self.camera_names)}
        return np.array([table[name] for name in self.cameras], dtype=np.int64)

    def records(self) -> ImageRecords:
        """The crops as the engines read them, without identities."""
        paths = tuple(str(self.root / name) for name in self.names)
        dsetids = np.zeros(len(self), dtype=np.int64)
        return ImageRecords(paths, self.numbers(), dsetids, None, self.cameras)

    def part(self, start: int, stop: int) -> Crops:
        """The crops ``start`` to ``stop`` − 1; what was left out before is not repeated."""
        pids = None if self.pids is None else self.pids[start:stop]
        return Crops(self.root, self.names[start:stop], self.cameras[start:stop], pids)

    def without(self, failures: Iterable[tuple[str, str]]) -> Crops:
        """Without the images (full path, reason) in ``failures``, which are added to skipped."""
        reasons = dict(failures)
        if not reasons:
            return self
        keep = [str(self.root / name) not in reasons for name in self.names]
        names, cameras, pids = (
            tuple(compress(column or (), keep)) for column in (self.names, self.cameras, self.pids)
        )
        skipped = [*self.skipped, *reasons.items()]
        return Crops(self.root, names, cameras, None if self.pids is None else pids, skipped)

    def check_skipped(self, max_bad: float) -> None:
        """Refuses to go on where too much was left out.

        Raises:
            ValueError: more than the share ``max_bad`` was, or everything.
        """
        bad, total = len(self.skipped), len(self.skipped) + len(self)
        if bad and (bad > max_bad * total or not len(self)):
            advice = f"repair or remove them, or allow more with --max-bad (now {max_bad:g})"
            raise ValueError(
                f"{bad} of {total} images cannot be used:{shortened(self.skipped)}\n"
                f"{advice if len(self) else 'none is left'}"
            )


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sorting key in which numbers count by their value: cam_2 before cam_10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts if p]


def describe_cameras(crops: Crops, to_learn: bool = True) -> str:
    """Images of each camera, one line each, and ``to_learn`` from, a warning of those with few."""
    counts = crops.counts()
    few = {name for name, count in counts.items() if to_learn and count < FEW}
    width = max(map(len, counts), default=0)
    lines = [f"{len(crops):,} images on {len(counts)} camera(s)"]
    for name, count in counts.items():
        lines.append(f"  {name:<{width}}  {count:>6,}{'   few' if name in few else ''}")
    if few:
        lines.append(
            f"{len(few)} camera(s) with fewer than {FEW} images: little can be learned of them; "
            "collect more if you can"
        )
    return "\n".join(lines)
