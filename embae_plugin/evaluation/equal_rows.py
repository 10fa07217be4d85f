"""Which embeddings are equal, so that a query is equally far from all of them.

A matrix product may round equal columns differently: kernels treat the last few columns, or those
of another thread, in another order, and which ones depends on the processor. So equality is found
in the embeddings themselves, bit by bit, and never read off distances. Embeddings that differ in
a single bit stay apart.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_AT_ONCE = 2**12  # rows copied and compared


class EqualRows(NamedTuple):
    """The rows of a matrix that are equal to another of its rows, in groups."""

    rows: Ints  # (M,) those rows, ascending
    group: Ints  # (M,) each one's group
    first: Ints  # (G,) the first row of each group, ascending

    def level(self, block: Tensor) -> Tensor:
        """Give equal rows, columns of a block (any, N), the value of their first one, in place."""
        if len(self.rows):
            rows, first = (
                torch.from_numpy(x).to(block.device) for x in (self.rows, self.first[self.group])
            )
            block.index_copy_(1, rows, block.index_select(1, first))
        return block

    def nearest(self, block: Tensor, k: int) -> Tensor:
        """The columns of the ``k`` smallest values of each row, ascending.

        Of a group of equal rows (:meth:`level`) the first ones come first.
        """
        if not len(self.rows):
            return block.topk(k, dim=1, largest=False).indices
        # Enough to hold all that tie with the last one; then in order of their rows.
        more = min(block.shape[1], k - 1 + int(np.bincount(self.group).max()))
        found = block.topk(more, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
        return found.gather(1, block.gather(1, found).argsort(dim=1, stable=True)[:, :k])


def equal_rows(matrix: Tensor) -> EqualRows:
    """Find the rows of a matrix (N, d) of float32 or float64 that occur in it more than once.

    0.0 and -0.0 are equal, and there must be no NaN. Takes one pass over the matrix; rows whose
    keys are the same are compared in full.
    """
    bits = matrix.view(_BITS[matrix.dtype])
    # The sum of a row's bits, exact in any order, without the sign: all that -0.0 adds to it.
    keys = bits.sum(1, dtype=bits.dtype) & torch.iinfo(bits.dtype).max
    _, key, count = np.unique(keys.cpu().numpy(), return_inverse=True, return_counts=True)
    suspects, first = np.flatnonzero(count[key] > 1), np.arange(len(matrix))
    seen: dict[bytes, int] = {}
    for start in range(0, len(suspects), _AT_ONCE):
        some = suspects[start : start + _AT_ONCE]
        # + 0.0 takes the sign off -0.0
        contents = (matrix[torch.from_numpy(some).to(matrix.device)] + 0.0).cpu().numpy()
        first[some] = [seen.setdefault(hashlib.blake2b(content).digest(), row)
                       for row, content in zip(some.tolist(), contents, strict=True)]
    rows = np.flatnonzero(np.bincount(first)[first] > 1)
    firsts, group = np.unique(first[rows], return_inverse=True)
    return EqualRows(rows, group.reshape(-1).astype(np.int64), firsts)
