"""How many gallery items are at most as far as each positive: the heart of the ranking.

A positive's rank is one more than the number of gallery items before it. No row is argsorted:
its bare values are sorted, in slices that fit the cache, and searched for the positives. numpy
sorts bare values with vector instructions, more than ten times faster than torch sorts values
with their indices, and the time doesn't grow with the number of positives as that of comparing
each distance with each of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SLICE_COLUMNS = 2**12
STRIP_ROWS = 32  # on the CPU; one thread works on one strip, 512 KiB of float32 at a time

Edges = npt.NDArray[np.int64]
Map = Callable[..., Iterator[Any]]


def add_counts(counts: Tensor, distances: Tensor, positives: Tensor, own: Edges, run: Map) -> None:
    """Count the distances that are no greater than each positive's, row by row.

    Args:
        counts: ``(2, rows, slots)`` int64, what is added to: gallery items of other cameras than
            the row's own, and those of its own.
        distances: ``(rows, columns)`` without NaN.
        positives: ``(rows, slots)``; the count of a NaN (an empty slot) means nothing.
        own: ``(rows, 2)`` first and last column (exclusive) of the row's own camera.
        run: ``map``, or that of a pool of threads, which then share the rows.
    """
    rows, on_cpu = len(own), distances.device.type == "cpu"
    height = STRIP_ROWS if on_cpu else rows
    cameras = np.flatnonzero((own[1:] != own[:-1]).any(axis=1)) + 1
    cuts = np.unique(np.concatenate([[rows], cameras, np.arange(0, rows, height)])).tolist()

    def work(top: int, bottom: int) -> None:
        strip, wanted = distances[top:bottom], positives[top:bottom].contiguous()
        first, last = own[top].tolist()
        edges = sorted({*range(0, strip.shape[1], SLICE_COLUMNS), strip.shape[1], first, last})
        for left, right in pairwise(edges):
            near = strip[:, left:right]
            near = torch.from_numpy(np.sort(near.numpy(), axis=1)) if on_cpu else near.sort(1)[0]
            total = counts[int(first <= left < last), top:bottom]
            total += torch.searchsorted(near, wanted, right=True)

    list(run(work, cuts[:-1], cuts[1:]))  # list() raises what a thread raised
