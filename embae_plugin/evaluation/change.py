"""What an adaptation changed, as far as it can be seen without knowing who is who."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from embae_plugin.evaluation.equal_rows import equal_rows

Ints = NDArray[np.int64]
_BLOCK_BYTES = 2**27


@dataclass(frozen=True)
class Change:
    """Averages over ``queries`` crops, each compared with all others.

    Attributes:
        queries: crops looked at.
        mean_cosine: between a crop's embedding before and after; None where those are of
            different spaces.
        new_neighbour: share whose nearest crop on another camera is another one now.
        same_camera_before, same_camera_after: share whose nearest crop of all is of its own
            camera. People are seen by a camera many times in a row, so this is high in any
            model, and a better one may well raise it.
        same_camera_by_chance: what it would be if cameras played no role.
        gap_before, gap_after: distance to the nearest crop on another camera, less the distance
            to the nearest on its own, in units of the mean distance between two crops.
    """

    queries: int
    mean_cosine: float | None
    new_neighbour: float | None
    same_camera_before: float | None
    same_camera_after: float | None
    same_camera_by_chance: float | None
    gap_before: float | None
    gap_after: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Plain values."""
        return asdict(self)


@dataclass
class _Neighbours:
    own: torch.Tensor  # (Q,) distance to the nearest crop of the query's camera, inf if alone
    other: torch.Tensor  # (Q,) distance to the nearest of another camera
    which: torch.Tensor  # (Q,) the latter's row
    mean: float  # distance of all pairs


@torch.inference_mode()
def _neighbours(x: torch.Tensor, cameras: torch.Tensor, rows: torch.Tensor) -> _Neighbours:
    """Nearest crops on the own camera and on others, block by block; ``x`` of length 1.

    Of several equally near, as equal crops are, the first counts.
    """
    equal = equal_rows(x)
    step = max(1, _BLOCK_BYTES // (4 * len(x)))
    own, other, which, total = [], [], [], 0.0
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        distance = equal.level((2 - 2 * x[block] @ x.T).clamp_(min=0).sqrt_())
        itself = (torch.arange(len(block), device=x.device), block)
        distance[itself] = 0
        total += float(distance.sum(dtype=torch.float64))
        distance[itself] = torch.inf
        same = cameras[block][:, None] == cameras[None, :]
        own.append(distance.masked_fill(~same, torch.inf).min(1).values)
        nearest = distance.masked_fill(same, torch.inf).min(1)
        other.append(nearest.values)
        which.append(nearest.indices)
    pairs = len(rows) * max(len(x) - 1, 1)
    return _Neighbours(torch.cat(own), torch.cat(other), torch.cat(which), total / pairs)


def measure_change(
    before: torch.Tensor,
    after: torch.Tensor,
    camids: Ints,
    most: int = 5000,
    seed: int = 0,
    same_space: bool = True,
) -> Change:
    """Compares embeddings of the same N crops before and after adaptation.

    Args:
        before, after: (N, d) embeddings of any length; they are scaled to length 1. Their
            widths may differ.
        camids: (N,) cameras.
        most: crops to look at, drawn at random where there are more; each against all.
        seed: of that draw.
        same_space: a crop's two embeddings can be compared with one another, as those of two
            features of a network cannot; neighbours are compared within each space in any case.

    Raises:
        ValueError: no crops, or of different numbers.
    """
    if not len(before) or len(before) != len(after) or len(camids) != len(before):
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
        return Change(len(old), cosine, None, None, None, None, None, None)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(old), generator=generator)[:most].sort().values.to(old.device)
    a, b = _neighbours(old, cameras, rows), _neighbours(new, cameras, rows)
    chance = float((counts * (counts - 1)).sum() / (len(old) * (len(old) - 1)))
    gaps = [_gap(part) for part in (a, b)]
    return Change(
        queries=len(rows),
        mean_cosine=cosine,
        new_neighbour=float((a.which != b.which).float().mean()),
        same_camera_before=float((a.own < a.other).float().mean()),
        same_camera_after=float((b.own < b.other).float().mean()),
        same_camera_by_chance=chance,
        gap_before=gaps[0],
        gap_after=gaps[1],
    )


def gap_between_cameras(x: torch.Tensor, camids: torch.Tensor) -> float | None:
    """The mean distance to the nearest crop on another camera, less that on the own camera.

    In units of the mean distance between two crops; None where there are no such two.

    Args:
        x: (N, d) embeddings of length 1.
        camids: (N,) cameras.
    """
    cameras = camids.to(x.device)
    if len(torch.unique(cameras)) < 2:
        return None
    return _gap(_neighbours(x, cameras, torch.arange(len(x), device=x.device)))


def _gap(part: _Neighbours) -> float | None:
    both = torch.isfinite(part.own)
    if not bool(both.any()) or part.mean == 0:
        return None
    return float((part.other[both] - part.own[both]).mean()) / part.mean
