"""Blocks of the query-gallery distance matrix, from embeddings or from a matrix already made."""

from __future__ import annotations

import math
import threading

import numpy as np
import torch
from torch import Tensor

from embae_plugin.evaluation.equal_rows import equal_rows

MAX_ROWS = 256  # more rows make the matrix product no faster
MIN_ROWS = 16  # fewer make it slow: rather cut the gallery, too
LEVELLED_AT_ONCE = 2**12  # columns whose distances are taken from elsewhere
MATCH_BYTES = 128  # what the ranks of one positive take while a block is scored


class EmbeddingDistances:
    """Squared Euclidean distances of embeddings, less the query's own squared norm.

    ``|q - g|^2 = |q|^2 - 2 q.g + |g|^2`` and the first term is the same along a row. The other
    two are one matrix product, of ``[-2 q, 1]`` with ``[g, |g|^2]``. Equal gallery embeddings
    are equally far, whatever that product rounds: their distance is computed once. Rows and
    columns come in the given orders, on whose device all is computed.

    Raises:
        ValueError: NaN or infinite values, or a spread too wide for the floating type.
    """

    def __init__(self, q_emb: Tensor, g_emb: Tensor, q_order: Tensor, g_order: Tensor) -> None:
        self.dtype, self.device = _working_dtype(q_emb, g_emb), q_order.device
        query = _take_rows(q_emb, q_order, self.dtype)
        gallery = _take_rows(g_emb, g_order, self.dtype)
        _check_finite("q_emb", query)
        _check_finite("g_emb", gallery)
        centre, step = _centre_and_step(gallery)
        for embeddings in (query, gallery):
            embeddings.sub_(centre).div_(step)
        reach = 4 * query.shape[1] * float(query.abs().amax())  # bounds every product below
        if not reach < torch.finfo(self.dtype).max:
            raise ValueError(f"embeddings too far apart for distances in {self.dtype}")
        self._query = torch.cat([query.mul_(-2), torch.ones_like(query[:, :1])], dim=1)
        norms = torch.einsum("nd,nd->n", gallery, gallery)
        self._gallery = torch.cat([gallery, norms[:, None]], dim=1)
        self._equal = equal_rows(gallery)
        self._once = self._gallery[torch.from_numpy(self._equal.first).to(self.device)]
        self._buffers = threading.local()  # each thread's own

    def block(self, row_start: int, row_stop: int, start: int, stop: int) -> Tensor:
        """Distances of some rows and columns, equal bits for equal arguments.

        They may be overwritten, and are valid until the same thread calls again.
        """
        shape = (row_stop - row_start, stop - start)
        size = shape[0] * shape[1]
        buffer: Tensor | None = getattr(self._buffers, "buffer", None)
        if buffer is None or len(buffer) < size:
            # fresh memory for each block costs as much as the product
            buffer = self._buffers.buffer = self._query.new_empty(size)
        block = buffer[:size].view(shape)
        query = self._query[row_start:row_stop]
        torch.mm(query, self._gallery[start:stop].T, out=block)
        self._level(block, query, start)
        return block

    def _level(self, block: Tensor, query: Tensor, start: int) -> None:
        """Give equal gallery embeddings one distance, in the columns from ``start`` on.

        It comes from a product that is the same whichever columns the block has.
        """
        equal = self._equal
        left, right = np.searchsorted(equal.rows, [start, start + block.shape[1]])
        columns, group = equal.rows[left:right] - start, equal.group[left:right]
        for first in range(0, len(self._once) if left < right else 0, LEVELLED_AT_ONCE):
            distances = torch.mm(query, self._once[first : first + LEVELLED_AT_ONCE].T)
            inside = np.flatnonzero((group >= first) & (group < first + LEVELLED_AT_ONCE))
            for some in np.split(inside, range(LEVELLED_AT_ONCE, len(inside), LEVELLED_AT_ONCE)):
                to, which = (torch.from_numpy(x).to(block.device)
                             for x in (columns[some], group[some] - first))
                block.index_copy_(1, to, distances.index_select(1, which))


class MatrixDistances:
    """A distance matrix made elsewhere, ``(num_query, num_gallery)`` without NaN."""

    def __init__(self, distmat: Tensor, q_order: Tensor, g_order: Tensor) -> None:
        self.dtype, self.device = _working_dtype(distmat), q_order.device
        self._distmat, self._q_order, self._g_order = distmat, q_order, g_order

    def block(self, row_start: int, row_stop: int, start: int, stop: int) -> Tensor:
        """Distances of some rows and columns, which may be overwritten."""
        rows = _take_rows(self._distmat, self._q_order[row_start:row_stop], self.dtype)
        largest = torch.finfo(self.dtype).max  # infinity is for what isn't counted
        return rows.index_select(1, self._g_order[start:stop]).clamp_(min=-largest, max=largest)


DistanceBlocks = EmbeddingDistances | MatrixDistances


def block_shape(
    num_query: int, num_gallery: int, most_matches: int, itemsize: int, block_bytes: int
) -> tuple[int, int]:
    """How many queries and gallery items one block of distances may have.

    The block takes at most ``block_bytes`` (one element at least), and so does all that is kept
    for the block's positives, of which a query has up to ``most_matches``. A block is as wide as
    the gallery while that leaves it ``MIN_ROWS`` rows.
    """
    rows = min(num_query, MAX_ROWS, max(1, block_bytes // (MATCH_BYTES * max(1, most_matches))))
    items = max(1, block_bytes // itemsize)
    if rows * num_gallery > items:
        rows = min(rows, max(min(MIN_ROWS, items), items // num_gallery))
    return rows, min(num_gallery, items // rows)


def blocks_at_once(
    shape: tuple[int, int], most_matches: int, itemsize: int, block_bytes: int
) -> int:
    """How many blocks of :func:`block_shape` the bound leaves room for, at least one."""
    rows, columns = shape
    return max(1, block_bytes // (rows * max(columns * itemsize, MATCH_BYTES * most_matches)))


def _take_rows(matrix: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A fresh copy of these rows as ``dtype``, on the device of the index ``rows``."""
    return matrix.index_select(0, rows.to(matrix.device)).to(device=rows.device, dtype=dtype)


def _working_dtype(*matrices: Tensor) -> torch.dtype:
    wide = any(matrix.dtype == torch.float64 for matrix in matrices)
    return torch.float64 if wide else torch.float32


def _check_finite(name: str, rows: Tensor) -> None:
    # the extremes of a row show its NaNs and infinities without a mask as large as the matrix
    bad = int((~(rows.amax(dim=1).isfinite() & rows.amin(dim=1).isfinite())).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(rows)} rows hold NaN or infinite values; check the weights "
            "and the images that these rows came from"
        )


def _centre_and_step(gallery: Tensor) -> tuple[Tensor, float]:
    """A centre and a scale for the embeddings, so that squares lose no digits and stay in range.

    The scale is a power of two and the centre a multiple of it: embeddings around zero are not
    moved, and exact ties stay exact.
    """
    mean = gallery.mean(dim=0)
    spread = float(torch.maximum(gallery.amax(dim=0) - mean, mean - gallery.amin(dim=0)).amax())
    if not math.isfinite(spread):
        raise ValueError(f"g_emb: values too large for distances in {gallery.dtype}")
    step = math.ldexp(1.0, math.frexp(spread)[1]) if spread > 0 else 1.0
    return (mean / step).round() * step, step
