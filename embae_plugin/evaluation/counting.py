"""How many gallery items are at most as far as each positive: the heart of the ranking.

A positive's rank is one more than the number of gallery items before it, so no row needs to be
sorted. With the 10 to 30 positives that a query has, comparing every distance with every
positive's and summing is several times faster than a search or a sort, on CPU and GPU alike, if
it is done in pieces that stay in the cache and with a floating comparison result, which torch
computes with vector instructions (a bool one it does not).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from embae_plugin.evaluation.matching import CameraRun

PIECE = 2048  # columns compared at a time
SCRATCH_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}  # 2 MiB stays in a core's cache
SORT_ABOVE = SCRATCH_ELEMENTS["cpu"] // PIECE  # positives of a query from which sorting wins


def count_before(
    distances: Tensor,
    positives: Tensor,
    widths: Tensor,
    runs: Iterable[CameraRun],
    offset: int,
    totals: tuple[Tensor, Tensor],
) -> None:
    """Count the distances that are no greater than each positive's.

    Args:
        distances: ``(rows, columns)``; NaN where a gallery item isn't to be counted.
        positives: ``(rows, slots)`` distances of each row's positives, NaN from its width on.
        widths: ``(rows,)`` number of positives of each row, on the CPU.
        runs: the rows' cameras, and which gallery positions are theirs.
        offset: gallery position of the first column.
        totals: ``(rows, slots)`` float64 each, to which the counts are added: over the columns of
            other cameras, and over those of the row's own camera.
    """
    others, own = totals
    columns = distances.shape[1]
    for run in runs:
        width = int(widths[run.row_start : run.row_stop].max())
        first, last = (min(max(e - offset, 0), columns) for e in (run.own_start, run.own_stop))
        parts = [(others, 0, first), (own, first, last), (others, last, columns)]
        for total, start, stop in parts:
            if width and start < stop:
                part = distances[run.row_start : run.row_stop, start:stop]
                wanted = positives[run.row_start : run.row_stop, :width]
                count = _count_sorted if width > SORT_ABOVE else _count_compared
                count(part, wanted, total[run.row_start : run.row_stop, :width])


def _count_compared(distances: Tensor, positives: Tensor, total: Tensor) -> None:
    """Add to ``total`` the counts for ``(rows, columns)`` distances by comparing all pairs."""
    rows, columns = distances.shape
    width, piece = positives.shape[1], min(PIECE, columns)
    step = min(rows, max(1, SCRATCH_ELEMENTS.get(distances.device.type, 2**19) // (width * piece)))
    scratch = distances.new_empty(step * width * piece)
    for top in range(0, rows, step):
        wanted = positives[top : top + step, :, None]
        for left in range(0, columns, piece):
            part = distances[top : top + step, None, left : left + piece]
            shape = (part.shape[0], width, part.shape[2])
            result = scratch[: shape[0] * shape[1] * shape[2]].view(shape)
            total[top : top + step] += torch.le(part, wanted, out=result).sum(dim=-1)


def _count_sorted(distances: Tensor, positives: Tensor, total: Tensor) -> None:
    """The same by sorting rows, whose cost does not grow with the number of positives."""
    rows, columns = distances.shape
    step = max(1, SCRATCH_ELEMENTS.get(distances.device.type, 2**19) // columns)
    for top in range(0, rows, step):
        part = distances[top : top + step]
        counted = columns - part.isnan().sum(dim=-1, keepdim=True)
        ordered = part.nan_to_num(nan=torch.inf, posinf=torch.inf).sort(dim=-1).values
        wanted = positives[top : top + step].contiguous()
        found = torch.searchsorted(ordered, wanted, right=True)
        total[top : top + step] += torch.minimum(found, counted)
