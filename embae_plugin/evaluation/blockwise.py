"""Score a ranking block by block of its distance matrix.

A positive's rank is one more than the number of gallery items before it. No row is argsorted:
its bare values are sorted, in slices that fit the cache, and searched for the positives. numpy
sorts bare values with vector instructions, more than ten times faster than torch sorts values
with their indices, and the time doesn't grow with the number of positives as that of comparing
each distance with each of them does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from embae_plugin import distributed
from embae_plugin.evaluation.distances import DistanceBlocks, block_shape, blocks_at_once
from embae_plugin.evaluation.matching import Codes, Matching
from embae_plugin.evaluation.metrics import Scores, score_queries, summarise
from embae_plugin.evaluation.protocols import Protocol, get_protocols
from embae_plugin.progress import progress

logger = logging.getLogger(__name__)

MIN_SHARED_ROWS = 64  # few queries are divided into blocks for several threads down to this
SLICE_COLUMNS = 2**12
STRIP_ROWS = 32  # on the CPU; one thread works on one strip, 512 KiB of float32 at a time
Item = TypeVar("Item")
Result = TypeVar("Result")
Map = Callable[[Callable[[Item], Result], Iterable[Item]], Iterator[Result]]
Span = tuple[int, int]


def score_blocks(
    distances: DistanceBlocks, matching: Matching, protocols: str | Iterable[str], max_rank: int,
    block_bytes: int,
) -> dict[str, Scores]:
    """The scores of each protocol; see ``ranking.evaluate_embeddings``.

    Several processes take a share of the queries each, and all return the scores of all.
    """
    chosen = get_protocols(protocols)
    for name, value in (("max_rank", max_rank), ("block_bytes", block_bytes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    num_query, num_gallery = len(matching.q_order), len(matching.g_order)
    itemsize = torch.finfo(distances.dtype).bits // 8
    most = matching.most_matches
    rows, columns = block_shape(num_query, num_gallery, most, itemsize, block_bytes)
    rows = min(rows, max(MIN_SHARED_ROWS, math.ceil(num_query / 8)))
    # blocks of about equal height: kernels for one or two rows round differently
    rows = math.ceil(num_query / max(math.ceil(num_query / rows), distributed.size()))
    shares = distributed.shards(num_query, rows)
    start, stop = shares[distributed.rank()]
    tops = range(start, stop, rows)
    at_once = min(len(tops), blocks_at_once((rows, columns), most, itemsize, block_bytes))
    with _threads(distances.device, at_once) as (run_blocks, run_strips):

        def work(top: int) -> dict[str, Tensor]:
            bottom = min(top + rows, stop)
            return _score_block(distances, matching, chosen, run_strips, top, bottom, columns)

        blocks = run_blocks(work, tops)
        done = list(progress(blocks, "ranking", len(tops), "block", delay=2.0))
    found = {}
    none = torch.empty(0, 3, dtype=torch.float64, device=distances.device)  # of an idle process
    for name in (protocol.name for protocol in chosen):
        mine = torch.cat([none, *(scores[name] for scores in done)])
        queries = distributed.gather_rows(mine, shares)
        found[name] = summarise(queries, max_rank, matching.q_order)
        if not found[name].queries:
            logger.warning(
                "protocol %s: none of the %d queries has a positive that isn't ignored, so there "
                "are no scores; are the camera ids of query and gallery all the same?",
                name, num_query,
            )
    return found


@contextmanager
def _threads(
    device: torch.device, at_once: int
) -> Iterator[tuple[Map[int, dict[str, Tensor]], Map[Span, None]]]:
    """``map`` over blocks and over the strips of a block, which share the cores.

    Blocks are worked on side by side while memory lasts: most steps of a block are too small to
    be divided. Cores that this leaves over help with the strips. A GPU has one queue, the
    caller's, which other threads would leave.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, at_once))
    if device.type != "cpu" or threads == 1:
        yield map, map
        return
    blocks, strips = (  # of threads, started when needed, in which torch uses so many itself
        ThreadPoolExecutor(some, initializer=torch.set_num_threads, initargs=(each,))
        for some, each in ((workers, threads // workers), (threads, 1))
    )
    try:
        yield blocks.map if workers > 1 else map, strips.map if workers < threads else map
    finally:
        for pool in (blocks, strips):  # an interrupt shall not wait for what hasn't begun
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the pools' have set it for threads begun from now on


def _score_block(
    distances: DistanceBlocks, matching: Matching, protocols: list[Protocol],
    run: Map[Span, None], top: int, bottom: int, width: int,
) -> dict[str, Tensor]:
    """Results of the queries ``top:bottom``, in pieces of at most ``width`` gallery items."""
    num_gallery = len(matching.g_order)
    lefts = range(0, num_gallery, width)
    whole = distances.block(top, bottom, 0, num_gallery) if len(lefts) == 1 else None
    rows, columns, same_camera = matching.pairs(top, bottom)

    def pieces() -> Iterator[tuple[Tensor, Tensor | slice, tuple[Tensor, Tensor], int]]:
        """Each piece's distances, which pairs lie in it, where in it, and its first column.

        Distances are made anew on each pass if there are several pieces: keeping them all would
        break the bound on memory, and the same product gives the same bits.
        """
        if whole is not None:
            yield whole, slice(None), (rows, columns), 0
            return
        for left in lefts:
            right = min(left + width, num_gallery)
            inside = ((columns >= left) & (columns < right)).nonzero()[:, 0]
            piece = distances.block(top, bottom, left, right)
            yield piece, inside, (rows[inside], columns[inside] - left), left

    # of each pair of one identity, out of the very pieces that are counted in
    apart = torch.zeros(len(rows), dtype=distances.dtype, device=rows.device)
    for piece, inside, pairs, _ in pieces():
        apart[inside] = piece[pairs]
    wanted: Tensor | slice = slice(None)
    if all(protocol.ignores_same_identity for protocol in protocols):
        wanted = (~same_camera).nonzero()[:, 0]
    # a table with a line for each query, whose pairs are numbered 0, 1, 2, ...
    line = rows[wanted]
    widths = torch.bincount(line, minlength=bottom - top)
    slot = torch.arange(len(line), device=line.device) - (widths.cumsum(0) - widths)[line]
    shape = (bottom - top, max(1, int(widths.max())))

    def padded(values: Tensor, fill: float | bool) -> Tensor:
        return values.new_full(shape, fill).index_put_((line, slot), values[wanted])

    positives = padded(apart, torch.nan)
    counts = torch.zeros(2, *shape, dtype=torch.int64, device=rows.device)
    for piece, _, pairs, left in pieces():
        piece[pairs] = torch.inf  # items of the query's identity are before no positive
        own = (matching.own[top:bottom] - left).clip(0, piece.shape[1])
        _add_counts(counts, piece, positives, own, run)
    # NaN, the empty slot, sorts last; stable, so that ties are the same on every device
    order = positives.argsort(dim=1, stable=True)
    full = (~positives.isnan()).gather(1, order)
    elsewhere = ~padded(same_camera, False).gather(1, order)
    others, own_camera = (count.gather(1, order) for count in counts)
    return {
        protocol.name: score_queries(
            (full & elsewhere if protocol.ignores_same_identity else full).double(),
            others if protocol.ignores_other_identities else others + own_camera,
        )
        for protocol in protocols
    }


def _add_counts(
    counts: Tensor, distances: Tensor, positives: Tensor, own: Codes, run: Map[Span, None]
) -> None:
    """Count the distances (rows, columns) that are no greater than each positive's, row by row.

    ``counts`` (2, rows, slots), to which is added, are of gallery items of other cameras than the
    row's own, and of its own, the columns from ``own[:, 0]`` to ``own[:, 1]``. ``positives`` are
    (rows, slots); the count of a NaN (an empty slot) means nothing.
    """
    rows, on_cpu = len(own), distances.device.type == "cpu"
    height = STRIP_ROWS if on_cpu else rows
    cameras = np.flatnonzero((own[1:] != own[:-1]).any(axis=1)) + 1
    cuts = np.unique(np.concatenate([[rows], cameras, np.arange(0, rows, height)])).tolist()

    def work(span: Span) -> None:
        top, bottom = span
        strip, wanted = distances[top:bottom], positives[top:bottom].contiguous()
        first, last = own[top].tolist()
        edges = sorted({*range(0, strip.shape[1], SLICE_COLUMNS), strip.shape[1], first, last})
        for left, right in pairwise(edges):
            near = strip[:, left:right]
            near = torch.from_numpy(np.sort(near.numpy(), axis=1)) if on_cpu else near.sort(1)[0]
            total = counts[int(first <= left < last), top:bottom]
            total += torch.searchsorted(near, wanted, right=True)

    list(run(work, pairwise(cuts)))  # list() raises what a thread raised
