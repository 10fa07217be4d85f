"""The nearest crops of each crop: exact, or through faiss where there are very many of them."""

from __future__ import annotations

import logging

import torch

from embae_plugin import distributed
from embae_plugin.evaluation.equal_rows import equal_rows
from embae_plugin.evaluation.nearest import faiss_or_none, inverted_file, unit_length

logger = logging.getLogger(__name__)

SEARCHES = ("auto", "exact", "approximate")
BLOCK = 1 << 25  # numbers held at once: 128 MiB of float32
MANY = 200_000  # crops, up to which a processor compares all of them with one another
_READ = 0.02  # share of an inverted file's lists that a crop looks into


@torch.inference_mode()
def nearest(embeddings: torch.Tensor, k: int, search: str = "exact") -> torch.Tensor:
    """(N, k) indices of the ``k`` nearest rows of each row of (N, D) embeddings, itself first.

    By Euclidean distance; equal rows are equally near, and come in their order. ``k`` is N at
    most. Of several processes each compares its share of the rows, in whole blocks; what is
    approximate, rank 0 finds for all.

    Args:
        search: ``exact`` compares each two rows, which takes time in the square of N;
            ``approximate`` (faiss) compares rows of length 1 that lie in one neighbourhood, so
            that some may be missed; ``auto`` is exact on a GPU, and up to :data:`MANY` rows.
    """
    if search == "auto":
        few = len(embeddings) <= MANY or embeddings.device.type == "cuda"
        search = "exact" if few else "approximate"
    if search == "approximate":
        found = distributed.from_rank_zero(lambda: _approximate(embeddings, k))
        if found is not None:
            return found.to(embeddings.device)
    shares = distributed.shards(len(embeddings), max(1, BLOCK // max(1, len(embeddings))))
    mine = torch.arange(*shares[distributed.rank()], device=embeddings.device)
    return distributed.gather_rows(_compared(embeddings, mine, k), shares)


def _approximate(embeddings: torch.Tensor, k: int) -> torch.Tensor | None:
    """What :func:`nearest` finds through faiss, on the processor; None where faiss is missing."""
    faiss = faiss_or_none()
    if faiss is None:
        return None
    everyone = torch.arange(len(embeddings), device=embeddings.device)
    rows = unit_length(embeddings.cpu().numpy())
    found = torch.from_numpy(inverted_file(faiss, rows, _READ).search(rows, k)[1])
    found = found.to(embeddings.device)
    own = found == everyone[:, None]
    own[:, -1] |= ~own.any(1)  # one that did not find itself takes the last one's place
    found[own] = everyone
    found = found.gather(1, own.logical_not().int().argsort(dim=1, stable=True))
    short = (found < 0).any(1).nonzero().flatten()  # there were fewer than k in the lists
    found[short] = _compared(embeddings, short, k)
    return found.cpu()


def _compared(embeddings: torch.Tensor, wanted: torch.Tensor, k: int) -> torch.Tensor:
    """The ``k`` nearest of ``wanted`` (M,) rows, by comparison with all."""
    squares, equal = embeddings.square().sum(1), equal_rows(embeddings)
    found = wanted.new_empty(len(wanted), k)
    rows = min(len(wanted), max(1, BLOCK // max(1, len(embeddings))))
    room = embeddings.new_empty(rows, len(embeddings))
    for start in range(0, len(wanted), max(1, rows)):
        some = wanted[start : start + rows]
        d = room[: len(some)]
        torch.addmm(squares, embeddings[some], embeddings.T, alpha=-2, out=d)
        d.add_(squares[some, None]).clamp_(min=0)
        itself = torch.arange(len(some), device=d.device), some
        equal.level(d)[itself] = -1  # first, whatever its twins
        found[start : start + rows] = equal.nearest(d, k)
    return found
