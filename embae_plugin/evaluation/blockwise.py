"""Score a ranking block by block of its distance matrix."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from embae_plugin import distributed
from embae_plugin.evaluation.counting import Map, add_counts
from embae_plugin.evaluation.distances import DistanceBlocks, block_shape, blocks_at_once
from embae_plugin.evaluation.matching import Matching
from embae_plugin.evaluation.metrics import QueryScores, Scores, score_queries, summarise
from embae_plugin.evaluation.protocols import Protocol

logger = logging.getLogger(__name__)

MIN_SHARED_ROWS = 64  # few queries are divided into blocks for several threads down to this


def score_blocks(
    distances: DistanceBlocks,
    matching: Matching,
    protocols: list[Protocol],
    max_rank: int,
    block_bytes: int,
) -> dict[str, Scores]:
    """Return the scores of each protocol; see ``ranking.evaluate_embeddings``.

    Several processes take a share of the queries each, and all return the scores of all.
    """
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
    # (rows, 3) of each protocol and block, of which a process may have none
    parts = {p.name: [torch.empty(0, 3, dtype=torch.float64, device=distances.device)]
             for p in protocols}
    with _threads(distances.device, at_once) as (run_blocks, run_strips):

        def work(top: int) -> dict[str, QueryScores]:
            block = _Block(distances, matching, top, min(top + rows, stop), columns)
            return _score_block(block, protocols, run_strips)

        done = run_blocks(work, tops)
        for scores in tqdm(done, "ranking", len(tops), disable=None, leave=False, delay=2.0):
            for name, scored in scores.items():
                parts[name].append(torch.stack(scored, dim=1))
    found = {}
    for name, some in parts.items():
        queries = QueryScores(*distributed.gather_rows(torch.cat(some), shares).unbind(dim=1))
        found[name] = summarise(queries, max_rank, matching.q_order)
        if not found[name].queries:
            logger.warning(
                "protocol %s: none of the %d queries has a positive that isn't ignored, so there "
                "are no scores; are the camera ids of query and gallery all the same?",
                name, num_query,
            )
    return found


@contextmanager
def _threads(device: torch.device, at_once: int) -> Iterator[tuple[Map, Map]]:
    """Two kinds of ``map``, over blocks and over the strips of a block, that share the cores.

    Blocks are worked on side by side while memory lasts: most steps of a block are too small to
    be divided. Cores that this leaves over help with the strips. A GPU has one queue, the
    caller's, which other threads would leave.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, at_once))
    if device.type != "cpu" or threads == 1:
        yield map, map
        return
    pools = [  # of threads, started when needed, in which torch uses so many itself
        ThreadPoolExecutor(some, initializer=torch.set_num_threads, initargs=(each,))
        for some, each in ((workers, threads // workers), (threads, 1))
    ]
    try:
        yield (
            pools[0].map if workers > 1 else map,
            pools[1].map if workers < threads else map,
        )
    finally:
        for pool in pools:  # an interrupt shall not wait for what hasn't begun
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the pools' have set it for threads begun from now on


class _Block:
    """The queries ``top:bottom`` against the gallery, in pieces of at most ``width`` columns."""

    def __init__(
        self, distances: DistanceBlocks, matching: Matching, top: int, bottom: int, width: int
    ) -> None:
        self._distances, self._top, self._bottom, self._width = distances, top, bottom, width
        self._columns, self.height = len(matching.g_order), bottom - top
        self._whole = self._make(0) if width >= self._columns else None
        self.own = matching.own[top:bottom]
        self.rows, self.columns, self.same_camera = matching.pairs(top, bottom)

    def pieces(self) -> Iterator[tuple[int, Tensor, Tensor | slice]]:
        """Yield each piece's first column, its distances, and which pairs lie in it.

        Distances are made anew on each pass if there are several pieces: keeping them all would
        break the bound on memory, and the same product gives the same bits.
        """
        if self._whole is not None:
            yield 0, self._whole, slice(None)
            return
        for left in range(0, self._columns, self._width):
            inside = (self.columns >= left) & (self.columns < left + self._width)
            yield left, self._make(left), inside.nonzero()[:, 0]

    def _make(self, left: int) -> Tensor:
        right = min(left + self._width, self._columns)
        return self._distances.block(self._top, self._bottom, left, right)

    def pair_distances(self) -> Tensor:
        """Distance of each pair of one identity, out of the very pieces that are counted in."""
        values = self.rows.new_zeros(len(self.rows), dtype=self._distances.dtype)
        for left, piece, inside in self.pieces():
            values[inside] = piece[self.rows[inside], self.columns[inside] - left]
        return values

    def count_negatives(self, positives: Tensor, run: Map) -> Tensor:
        """Negatives before each positive, ``(2, rows, slots)`` as in :func:`add_counts`."""
        counts = torch.zeros(2, *positives.shape, dtype=torch.int64, device=positives.device)
        for left, piece, inside in self.pieces():
            # infinitely far, items of the query's identity are before no positive
            piece[self.rows[inside], self.columns[inside] - left] = torch.inf
            add_counts(counts, piece, positives, (self.own - left).clip(0, piece.shape[1]), run)
        return counts


def _score_block(block: _Block, protocols: list[Protocol], run: Map) -> dict[str, QueryScores]:
    wanted: Tensor | slice = slice(None)
    if all(protocol.ignores_same_identity for protocol in protocols):
        wanted = (~block.same_camera).nonzero()[:, 0]
    rows = block.rows[wanted]
    # the pairs of each row are numbered 0, 1, 2, ...
    widths = torch.bincount(rows, minlength=block.height)
    slots = torch.arange(len(rows), device=rows.device) - (widths.cumsum(0) - widths)[rows]
    shape = (block.height, max(1, int(widths.max())))

    def padded(values: Tensor, fill: float | bool) -> Tensor:
        table = values.new_full(shape, fill)
        table[rows, slots] = values[wanted]
        return table

    positives = padded(block.pair_distances(), torch.nan)
    counts = block.count_negatives(positives, run)
    # NaN, the empty slot, sorts last; stable, so that ties are the same on every device
    order = positives.argsort(dim=1, stable=True)
    full = (~positives.isnan()).gather(1, order)
    same_camera = padded(block.same_camera, False).gather(1, order)
    others, own = (count.gather(1, order) for count in counts)
    results = {}
    for protocol in protocols:
        hits = full & ~same_camera if protocol.ignores_same_identity else full
        before = others if protocol.ignores_other_identities else others + own
        results[protocol.name] = score_queries(hits.double(), before)
    return results
