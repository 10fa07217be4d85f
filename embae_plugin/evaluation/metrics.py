"""CMC and average precision from the ranks of each query's positives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """What one protocol says about a ranking. All values are fractions, not percentages.

    Attributes:
        cmc: ``(max_rank,)``: ``cmc[k - 1]`` is the fraction of the scored queries with a positive
            among the first k gallery items that are not ignored.
        mAP: mean over the scored queries of the mean precision at each hit, as in torchreid,
            fast-reid and scikit-learn.
        mAP_trapezoid: the same with the trapezoid rule of the Market-1501 MATLAB code.
        queries: number of scored queries; without any ``cmc`` and both mAPs are NaN.
        dropped_queries: number of queries with no positive left; they are in no average.
        precision, first_rank: ``(num_query,)`` of each query, in their order: the mean precision
            at its hits and the rank of the first one; NaN for a dropped query.
    """

    cmc: FloatArray
    mAP: float
    mAP_trapezoid: float
    queries: int
    dropped_queries: int
    precision: FloatArray = field(default_factory=lambda: np.empty(0), repr=False)
    first_rank: FloatArray = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def rank1(self) -> float:
        """Fraction of the scored queries whose nearest gallery item is a positive."""
        return self.rank(1)

    def rank(self, k: int) -> float:
        """Fraction of the scored queries with a positive among the first ``k``.

        Raises:
            ValueError: ``k`` isn't within 1 to ``max_rank``.
        """
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"no rank {k} in a CMC of 1 to {len(self.cmc)}; raise max_rank")
        return float(self.cmc[k - 1])


def score_queries(hits: Tensor, before: Tensor) -> Tensor:
    """(num_query, 3) average precision, the same by trapezoids, and the first hit's rank.

    All are NaN for a dropped query. ``hits`` (num_query, slots) are 1.0 where a slot, from near to
    far, holds a positive that counts, else 0.0; ``before`` (num_query, slots) is the number of
    *negatives* before each slot.

    The k-th hit with n negatives before it has rank k + n and precision k / (k + n). The rule of
    the MATLAB code weighs each step of the recall with the mean of two precisions: the hit's own
    and that of the rank just before, (k - 1) / (k + n - 1), which is taken as 1 at rank 1
    (Zheng et al., 2015, after Philbin et al., 2007).
    """
    found = hits.cumsum(dim=1)
    rank = found + before
    precision = found / rank
    previous = torch.where(rank > 1, (found - 1) / (rank - 1), 1.0)
    total, counts = hits.sum(dim=1), hits > 0  # slots that don't count may hold anything
    first = torch.where(counts, rank, torch.inf).amin(dim=1)
    return torch.stack([  # 0 / 0 marks a dropped query
        torch.where(counts, precision, 0.0).sum(dim=1) / total,
        torch.where(counts, (previous + precision) / 2, 0.0).sum(dim=1) / total,
        torch.where(total > 0, first, torch.nan),
    ], dim=1)


def summarise(queries: Tensor, max_rank: int, order: Tensor) -> Scores:
    """Average the results of :func:`score_queries`; query ``i`` was number ``order[i]``."""
    precision, trapezoid, first = queries.unbind(dim=1)
    scored, place = ~first.isnan(), order.argsort()
    number = int(scored.sum())
    ranks = first[scored].clamp(max=max_rank + 1).long()
    reached = torch.bincount(ranks, minlength=max_rank + 2)[1 : max_rank + 1].cumsum(0)
    return Scores(
        cmc=(reached.double() / number).cpu().numpy(),  # 0 / 0 is NaN in torch
        mAP=float(precision[scored].mean()),
        mAP_trapezoid=float(trapezoid[scored].mean()),
        queries=number,
        dropped_queries=len(scored) - number,
        precision=precision[place].cpu().numpy(),
        first_rank=first[place].cpu().numpy(),
    )
