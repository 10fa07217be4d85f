"""Score a ranking block by block of its distance matrix."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

from embae_plugin.evaluation.counting import Counts, add_counts
from embae_plugin.evaluation.distances import DistanceBlocks, block_shape
from embae_plugin.evaluation.matching import Matching
from embae_plugin.evaluation.metrics import QueryScores, Scores, score_queries, summarise
from embae_plugin.evaluation.protocols import Protocol

logger = logging.getLogger(__name__)


def score_blocks(
    distances: DistanceBlocks,
    matching: Matching,
    protocols: list[Protocol],
    max_rank: int,
    block_bytes: int,
) -> dict[str, Scores]:
    """Return the scores of each protocol; see ``ranking.evaluate_embeddings``."""
    num_query, num_gallery = len(matching.q_order), len(matching.g_order)
    rows, columns = block_shape(
        num_query,
        num_gallery,
        matching.most_matches,
        torch.finfo(distances.dtype).bits // 8,
        block_bytes,
    )
    # blocks of about equal height: kernels for one or two rows round differently
    rows = math.ceil(num_query / math.ceil(num_query / rows))
    parts: dict[str, list[QueryScores]] = {protocol.name: [] for protocol in protocols}
    tops = tqdm(range(0, num_query, rows), "ranking", disable=None, leave=False, delay=2.0)
    with ThreadPoolExecutor(torch.get_num_threads()) as executor:
        for top in tops:
            block = _Block(distances, matching, top, min(top + rows, num_query), columns)
            for name, scored in _score_block(block, protocols, executor).items():
                parts[name].append(scored)
    return {name: _summarise(name, scored, max_rank) for name, scored in parts.items()}


class _Block:
    """The queries ``top:bottom`` against the gallery, in pieces of at most ``width`` columns."""

    def __init__(
        self, distances: DistanceBlocks, matching: Matching, top: int, bottom: int, width: int
    ) -> None:
        self._distances, self._top, self._bottom, self._width = distances, top, bottom, width
        self._columns = len(matching.g_order)
        self.dtype = distances.dtype
        self._whole = self._make(0) if width >= self._columns else None
        self.own = matching.own[top:bottom]
        self.rows, self.columns, self.same_camera = matching.pairs(top, bottom)

    def __len__(self) -> int:
        return self._bottom - self._top

    def pieces(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each piece's first column, its distances, and which pairs lie in it.

        Distances are made anew on each pass if there are several pieces: keeping them all would
        break the bound on memory, and the same product gives the same bits.
        """
        for left in range(0, self._columns, self._width):
            piece = self._make(left) if self._whole is None else self._whole
            inside = (self.columns >= left) & (self.columns < left + self._width)
            yield left, piece, inside.nonzero()[:, 0]

    def _make(self, left: int) -> Tensor:
        right = min(left + self._width, self._columns)
        return self._distances.block(self._top, self._bottom, left, right)


def _score_block(
    block: _Block, protocols: list[Protocol], executor: Executor
) -> dict[str, QueryScores]:
    wanted = torch.ones_like(block.same_camera)
    if all(protocol.ignores_same_identity for protocol in protocols):
        wanted = ~block.same_camera
    slots, widths = _slots(block.rows[wanted], len(block))
    shape = (len(block), max(1, int(widths.max())))

    def padded(values: Tensor, fill: float | bool) -> Tensor:
        table = values.new_full(shape, fill)
        table[block.rows[wanted], slots] = values[wanted]
        return table

    positives = padded(_pair_distances(block), torch.nan)
    counts = _count_negatives(block, positives, executor)
    # NaN, the empty slot, sorts last; stable, so that ties are the same on every device
    order = positives.argsort(dim=1, stable=True)
    full = (~positives.isnan()).gather(1, order)
    same_camera = padded(block.same_camera, False).gather(1, order)
    others, own = counts.others.gather(1, order), counts.own.gather(1, order)
    results = {}
    for protocol in protocols:
        hits = full & ~same_camera if protocol.ignores_same_identity else full
        before = others if protocol.ignores_other_identities else others + own
        results[protocol.name] = score_queries(hits.double(), before)
    return results


def _slots(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Number the pairs of each row 0, 1, 2, ...; also return how many each row has."""
    widths = torch.bincount(rows, minlength=num_rows)
    firsts = widths.cumsum(0) - widths
    return torch.arange(len(rows), device=rows.device) - firsts[rows], widths


def _pair_distances(block: _Block) -> Tensor:
    """Distance of each pair of one identity, out of the very pieces that are counted in."""
    values = torch.zeros(len(block.rows), dtype=block.dtype, device=block.rows.device)
    for left, piece, inside in block.pieces():
        values[inside] = piece[block.rows[inside], block.columns[inside] - left]
    return values


def _count_negatives(block: _Block, positives: Tensor, executor: Executor) -> Counts:
    """Count the negatives before each positive."""
    counts = Counts.zeros(positives)
    for left, piece, inside in block.pieces():
        # infinitely far, items of the query's identity are before no positive
        piece[block.rows[inside], block.columns[inside] - left] = torch.inf
        own = (block.own - left).clip(0, piece.shape[1])
        add_counts(counts, piece, positives, own, executor)
    return counts


def _summarise(protocol: str, parts: list[QueryScores], max_rank: int) -> Scores:
    scores = summarise(
        QueryScores(
            precision=torch.cat([part.precision for part in parts]),
            precision_trapezoid=torch.cat([part.precision_trapezoid for part in parts]),
            first_rank=torch.cat([part.first_rank for part in parts]),
        ),
        max_rank,
    )
    if scores.queries == 0:
        logger.warning(
            "protocol %s: none of the %d queries has a positive that isn't ignored, so there are "
            "no scores; are the camera ids of query and gallery all the same?",
            protocol,
            scores.dropped_queries,
        )
    return scores
