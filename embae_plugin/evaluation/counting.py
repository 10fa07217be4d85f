"""How many gallery items are at most as far as each positive: the heart of the ranking.

A positive's rank is one more than the number of gallery items before it, so no row needs to be
sorted. With the 10 to 30 positives that a query has, comparing every distance with every
positive's and summing is several times faster than a search or a sort, on CPU and GPU alike, if
it is done in tiles that stay in the cache and with a floating comparison result, which torch
computes with vector instructions (a bool one it does not).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from embae_plugin.evaluation.matching import CameraRun

TILE_COLUMNS = 2048
CPU_TILE = 2**19  # comparisons at a time: 2 MiB stay in the cache
GPU_TILE = 2**24
SORT_ABOVE = CPU_TILE // TILE_COLUMNS  # positives of a query from which sorting wins


class Counter:
    """Adds up, for each positive, the gallery items that are no farther than it.

    Args:
        positives: ``(rows, slots)`` distances of each row's positives, NaN in empty slots.
        widths: ``(rows,)`` number of filled slots, which come first.
        runs: the rows' cameras, and which gallery positions are theirs.

    Attributes:
        others, own: ``(rows, slots)`` float64, counts so far over the items of other cameras
            and over those of the row's own camera.
    """

    def __init__(self, positives: Tensor, widths: Tensor, runs: Iterable[CameraRun]) -> None:
        self._positives, self._widths, self._runs = positives, widths.cpu(), list(runs)
        self._tile = CPU_TILE if positives.device.type == "cpu" else GPU_TILE
        self._scratch = positives.new_empty(0)
        self.others = torch.zeros(positives.shape, dtype=torch.float64, device=positives.device)
        self.own = torch.zeros_like(self.others)

    def add(self, distances: Tensor, offset: int) -> None:
        """Count in ``(rows, columns)`` distances, of the gallery positions from ``offset`` on.

        A NaN is not counted.
        """
        columns = distances.shape[1]
        for run in self._runs:
            first, last = (
                min(max(edge - offset, 0), columns) for edge in (run.own_start, run.own_stop)
            )
            self._add_part(distances, run, 0, first, self.others)
            self._add_part(distances, run, first, last, self.own)
            self._add_part(distances, run, last, columns, self.others)

    def _add_part(
        self, distances: Tensor, run: CameraRun, left: int, right: int, totals: Tensor
    ) -> None:
        top, columns = run.row_start, right - left
        while columns > 0 and top < run.row_stop:
            # tiles of about equal size, as high as the width of their first row allows
            widest = max(1, int(self._widths[top]))
            pieces = max(1, round(columns / TILE_COLUMNS))
            height = max(1, self._tile // (widest * min(columns, TILE_COLUMNS)))
            bottom = min(top + height, run.row_stop)
            width = int(self._widths[top:bottom].max())
            part = distances[top:bottom, left:right]
            wanted, total = self._positives[top:bottom, :width], totals[top:bottom, :width]
            if width > SORT_ABOVE:
                total += _count_sorted(part, wanted)
            elif width:
                self._compare(part, wanted, total, -(-columns // pieces))
            top = bottom

    def _compare(self, distances: Tensor, positives: Tensor, total: Tensor, piece: int) -> None:
        """Add the counts for a strip of rows to ``total``, ``piece`` columns at a time."""
        rows, width = positives.shape
        if self._scratch.numel() < rows * width * piece:
            self._scratch = distances.new_empty(rows * width * piece)
        scratch = self._scratch[: rows * width * piece].view(rows, width, piece)
        wanted = positives[:, :, None]
        for part in distances[:, None].split(piece, dim=2):
            result = scratch if part.shape[2] == piece else scratch[:, :, : part.shape[2]]
            total += torch.le(part, wanted, out=result).sum(dim=2)


def _count_sorted(distances: Tensor, positives: Tensor) -> Tensor:
    """The same counts by sorting rows, whose cost does not grow with the number of positives."""
    counted = distances.shape[1] - distances.isnan().sum(dim=1, keepdim=True)
    # a NaN sorts last but breaks the search; as infinity it could only be found by an infinity
    ordered = distances.nan_to_num(nan=torch.inf, posinf=torch.inf).sort(dim=1).values
    found = torch.searchsorted(ordered, positives.contiguous(), right=True)
    return torch.minimum(found, counted)
