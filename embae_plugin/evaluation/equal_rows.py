"""Which embeddings are equal, so that a query is equally far from all of them.

A matrix product may round equal columns differently: kernels treat the last few columns, or those
of another thread, in another order, and which ones depends on the processor. So equality is found
in the embeddings themselves, bit by bit, and never read off distances. Embeddings that differ in
a single bit stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_AT_ONCE = 2**12  # rows copied and compared


@dataclass(frozen=True)
class EqualRows:
    """The rows of a matrix that are equal to another of its rows, in groups.

    Attributes:
        rows: (M,) those rows, ascending.
        group: (M,) each one's group.
        first: (G,) the first row of each group, ascending.
    """

    rows: Ints
    group: Ints
    first: Ints

    def level(self, block: Tensor) -> Tensor:
        """Give equal rows the value of their first one, in place.

        Args:
            block: (any, N), a column for each of the N rows.
        """
        if len(self.rows):
            rows, first = (_to(x, block.device) for x in (self.rows, self.first[self.group]))
            block.index_copy_(1, rows, block.index_select(1, first))
        return block


def equal_rows(matrix: Tensor) -> EqualRows:
    """Find the rows of a matrix (N, d) of float32 or float64 that occur in it more than once.

    0.0 and -0.0 are equal, and there must be no NaN. Takes one pass over the matrix; rows whose
    keys are the same are compared in full.
    """
    _, key, count = np.unique(_keys(matrix), return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(count[key] > 1)
    suspects = suspects[key[suspects].argsort(kind="stable")]
    first, seen, last = np.arange(len(key)), dict[bytes, int](), -1
    for start in range(0, len(suspects), _AT_ONCE):
        some = suspects[start : start + _AT_ONCE]
        # + 0.0 takes the sign off -0.0
        contents = (matrix[_to(some, matrix.device)] + 0.0).cpu().numpy()
        for row, content in zip(some.tolist(), contents, strict=True):
            if key[row] != last:  # rows of other keys are other rows
                seen.clear()
                last = key[row]
            first[row] = seen.setdefault(content.tobytes(), row)
    rows = np.flatnonzero(np.bincount(first)[first] > 1)
    firsts, group = np.unique(first[rows], return_inverse=True)
    return EqualRows(rows, group.reshape(-1).astype(np.int64), firsts)


def _keys(matrix: Tensor) -> Ints:
    """(N,) a number for each row, the same for equal rows and rarely for others.

    The bits of both halves, summed as integers, which is exact in any order. The sign bit is
    dropped: all that -0.0 adds to a sum.
    """
    bits = matrix.view(_BITS[matrix.dtype])
    half = bits.shape[1] // 2
    sums = bits[:, : 2 * half].reshape(len(bits), 2, half).sum(2, dtype=bits.dtype)
    if bits.shape[1] % 2:
        sums[:, 1] += bits[:, -1]
    left, right = (sums & torch.iinfo(bits.dtype).max).long().unbind(1)
    return np.asarray((left * 2**31 + right).cpu().numpy(), dtype=np.int64)


def _to(numbers: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(numbers).to(device)
