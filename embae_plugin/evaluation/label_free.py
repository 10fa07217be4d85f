"""What can be said of embeddings of unlabelled crops: measures to choose an epoch by.

The reconstruction loss falls as long as one trains, and accuracy does not rise as long. Each
measure here reads (N, V, d) embeddings of length 1, of V views of each crop, and (N,) cameras, and
no identity; of each, more is meant to be better.
Which one is to be trusted is a question of evidence: `embae curves` compares what each gives away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from embae_plugin.evaluation.change import camera_neighbours
from embae_plugin.evaluation.equal_rows import equal_rows

MOST = 4096  # crops that are looked at: each is compared with all of them


def effective_rank(views: torch.Tensor, camids: torch.Tensor) -> float:
    """How many directions the embeddings spread over (RankMe: Garrido et al., ICML 2023).

    The exponential of the entropy of the covariance's normalised eigenvalues: from 1 to d. An
    embedding that collapses onto what cameras, or a few people, differ by loses directions.
    """
    x = F.normalize(views.mean(1), dim=1).double()
    x = x - x.mean(0)
    values = torch.linalg.eigvalsh(x.T @ x).clamp_(min=0)
    share = values / values.sum().clamp_(min=1e-300)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def flip_agreement(views: torch.Tensor, camids: torch.Tensor) -> float:
    """How near a crop and its mirror image are, 1 for equal, 0 for as far as two crops are."""
    if views.shape[1] < 2:
        return float("nan")
    own = (views[:, 0] - views[:, 1]).norm(dim=1).mean()
    return 1 - float(own / torch.pdist(views[:1024, 0]).mean().clamp_(min=1e-12))


def camera_mixing(views: torch.Tensor, camids: torch.Tensor) -> float:
    """The nearest crop on the own camera less that on others, in mean distances; NaN for one."""
    gap = camera_neighbours(F.normalize(views.mean(1), dim=1), camids).gap
    return float("nan") if gap is None else -gap


def mutual_neighbours(views: torch.Tensor, camids: torch.Tensor) -> float:
    """The share of crops whose nearest on another camera has them as its nearest on theirs.

    Over all pairs of cameras; NaN for a single one. Of several equal crops the first is nearest.
    """
    x = F.normalize(views.mean(1), dim=1)
    crops = [x[camids == camera] for camera in torch.unique(camids).tolist()]
    equal = [equal_rows(some) for some in crops]
    mutual = total = 0
    for n, one in enumerate(crops):
        for m in range(n + 1, len(crops)):
            near = equal[m].level(one @ crops[m].T)
            equal[n].level(near.T)
            there, back = near.argmax(1), near.argmax(0)
            answered = int((back[there] == torch.arange(len(there), device=x.device)).sum())
            mutual, total = mutual + 2 * answered, total + sum(near.shape)
    return mutual / total if total else float("nan")


MEASURES = {each.__name__: each
            for each in (effective_rank, flip_agreement, camera_mixing, mutual_neighbours)}
LAST = "last"
RULES = (LAST, *MEASURES)  # to choose an epoch by


def measure(
    views: torch.Tensor, camids: torch.Tensor, names: Sequence[str] = tuple(MEASURES)
) -> dict[str, float]:
    """Some of :data:`MEASURES`, of (N, V, d) embeddings of any length and (N,) cameras.

    Raises:
        ValueError: fewer than two crops, or another number of cameras.
    """
    if views.ndim != 3 or len(views) < 2 or len(camids) != len(views):
        raise ValueError(
            f"embeddings {tuple(views.shape)} of {len(camids)} cameras: must be (N, V, d), of N "
            "crops, two at least"
        )
    views = F.normalize(views.float(), dim=2)
    return {name: MEASURES[name](views, camids.to(views.device)) for name in names}
