"""What an adaptation changed, as far as it can be seen without knowing who is who."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from embae_plugin.evaluation.equal_rows import Ints, equal_rows

_BLOCK_BYTES = 2**27


class Change(NamedTuple):
    """Averages over ``queries`` crops, each compared with all others; None for what isn't known."""

    queries: int
    mean_cosine: float | None = None  # between a crop's embeddings, if they are of one space
    new_neighbour: float | None = None  # share whose nearest on another camera is another one now
    # Share whose nearest crop of all is of its own camera. People are seen by a camera many times
    # in a row, so this is high in any model, and a better one may well raise it.
    same_camera_before: float | None = None
    same_camera_after: float | None = None
    same_camera_by_chance: float | None = None  # what it would be if cameras played no role
    gap_before: float | None = None  # CameraNeighbours.gap
    gap_after: float | None = None


class CameraNeighbours(NamedTuple):
    """The nearest crops of Q crops on their own camera and on others."""

    own: torch.Tensor  # (Q,) distance to the nearest on the crop's camera, infinite for none
    other: torch.Tensor  # (Q,) likewise of another camera
    which: torch.Tensor  # (Q,) the latter's row
    mean: float  # distance of all pairs

    @property
    def gap(self) -> float | None:
        """Distance to the nearest on another camera less that on the own, in mean distances."""
        both = torch.isfinite(self.own) & torch.isfinite(self.other)
        if not bool(both.any()) or self.mean == 0:
            return None
        return float((self.other[both] - self.own[both]).mean()) / self.mean


@torch.inference_mode()
def camera_neighbours(
    x: torch.Tensor, cameras: torch.Tensor, rows: torch.Tensor | None = None
) -> CameraNeighbours:
    """Nearest crops on the own of N ``cameras`` and on others; of equally near ones the first.

    ``x`` are (N, d) embeddings of length 1; ``rows`` (Q,) are the crops whose neighbours among all
    N are wanted, all by default.
    """
    equal = equal_rows(x)
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    parts, total = [], 0.0
    for block in torch.split(rows, max(1, _BLOCK_BYTES // (4 * len(x)))):
        distance = equal.level((2 - 2 * x[block] @ x.T).clamp_(min=0).sqrt_())
        itself = (torch.arange(len(block), device=x.device), block)
        distance[itself] = 0
        total += float(distance.sum(dtype=torch.float64))
        distance[itself] = torch.inf
        same = cameras[block][:, None] == cameras[None, :]
        nearest = distance.masked_fill(~same, torch.inf).amin(1)
        parts.append((nearest, *distance.masked_fill(same, torch.inf).min(1)))
    own, other, which = map(torch.cat, zip(*parts, strict=True))
    return CameraNeighbours(own, other, which, total / (len(rows) * max(len(x) - 1, 1)))


def measure_change(
    before: torch.Tensor, after: torch.Tensor, camids: Ints,
    most: int = 5000, seed: int = 0, same_space: bool = True,
) -> Change:
    """Compares embeddings (N, d) of the same crops, on N cameras, before and after adaptation.

    Args:
        before, after: of any length; they are scaled to length 1. Their widths may differ.
        most: crops to look at, drawn by ``seed`` where there are more; each against all.
        same_space: a crop's two embeddings can be compared with one another, as those of two
            features of a network cannot; neighbours are compared within each space in any case.

    Raises:
        ValueError: no crops, or of different numbers.
    """
    if not len(before) or not len(before) == len(after) == len(camids):
        raise ValueError(
            f"{tuple(before.shape)} embeddings before, {tuple(after.shape)} after and "
            f"{len(camids)} cameras: they must be of the same crops"
        )
    old, new = F.normalize(before.float(), dim=1), F.normalize(after.float(), dim=1)
    comparable = same_space and old.shape == new.shape
    cosine = float((old * new).sum(1).mean()) if comparable else None
    cameras = torch.from_numpy(np.asarray(camids, dtype=np.int64)).to(old.device)
    counts = torch.unique(cameras, return_counts=True)[1].double()
    if len(counts) < 2:
        return Change(len(old), cosine)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(old), generator=generator)[:most].sort().values.to(old.device)
    a, b = (camera_neighbours(x, cameras, rows) for x in (old, new))
    new_neighbour, same_before, same_after = (
        float(found.float().mean())
        for found in (a.which != b.which, a.own < a.other, b.own < b.other)
    )
    chance = float((counts * (counts - 1)).sum() / (len(old) * (len(old) - 1)))
    return Change(len(rows), cosine, new_neighbour, same_before, same_after, chance, a.gap, b.gap)
