"""Draws a whole epoch of batches at once: P x K identities, or equal shares of each group.

No Python loop runs over images, identities or cameras: an epoch over 30,000 images takes
milliseconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Labels = torch.Tensor | NDArray[Any]

_TICKETS = 1 << 22  # numbers drawn at once; steps × people may be billions


def identity_batches(
    pids: Labels, dsetids: Labels, P: int, K: int, steps: int, generator: torch.Generator,
    choose: str = "proportional", ranks: int = 1,
) -> torch.Tensor:
    """P x K batches, each from one dataset (paper, section 3.3; Hermans et al., 2017).

    Each batch draws its dataset, then P different identities of it, then K images of each: K
    different ones where the identity has that many, else with replacement. The batches that
    several processes learn from in one step share no identity while their datasets have enough.
    The same pid in two datasets is two people.

    Args:
        pids, dsetids: (N,) identities and datasets.
        P, K: identities in a batch, images of each.
        choose: draw datasets in proportion to their images, or "uniform".
        ranks: batches in a step, one for each process.

    Returns:
        (steps, ranks * P * K) indices, a batch after the other, the K images of an identity side
        by side.

    Raises:
        ValueError: no images, a dataset with fewer than P identities, a number below 1, or an
            unknown ``choose``.
    """
    pids, dsetids = torch.as_tensor(pids), torch.as_tensor(dsetids)
    if choose not in ("proportional", "uniform"):
        raise ValueError(f"choose must be 'proportional' or 'uniform', not '{choose}'")
    if min(P, K, steps, ranks) < 1:
        raise ValueError(f"P = {P}, K = {K} and {steps} steps must each be at least 1")
    if pids.ndim != 1 or pids.shape != dsetids.shape or len(pids) == 0:
        raise ValueError(
            "pids and dsetids must be (N,) with N > 0, got "
            f"{tuple(pids.shape)} and {tuple(dsetids.shape)}"
        )
    names, dataset = torch.unique(dsetids, return_inverse=True)
    key = dataset * len(pids) + torch.unique(pids, return_inverse=True)[1]
    people, identity, size = torch.unique(key, return_inverse=True, return_counts=True)
    # Identities are sorted by dataset, and ``order`` has their images side by side.
    order, start = identity.argsort(stable=True), size.cumsum(0) - size
    in_dataset = torch.bincount(people // len(pids)).tolist()
    numbers = zip(names.tolist(), in_dataset, strict=True)
    small = [f"dataset {d} has {n}" for d, n in numbers if n < P]
    if small:
        raise ValueError(
            f"a batch needs P = {P} identities of one dataset, but {', '.join(small)}; lower the "
            "batch size or raise the number of images for each identity"
        )
    share = torch.bincount(dataset).double()
    if choose == "uniform":
        share = torch.ones_like(share)
    chosen = torch.multinomial(share, steps * ranks, replacement=True, generator=generator)
    chosen, drawn = chosen.view(steps, ranks), torch.empty(steps, ranks, P, dtype=torch.long)
    for d, (first, last) in enumerate(pairwise([0, *np.cumsum(in_dataset).tolist()])):
        here = chosen == d
        rows = here.any(dim=1).nonzero().flatten()
        wanted = min(last - first, P * int(here.sum(dim=1).amax()))
        shuffled = torch.cat([
            torch.rand(len(some), last - first, generator=generator).topk(wanted, dim=1).indices
            for some in torch.split(rows, max(1, _TICKETS // (last - first)))
        ])
        # The n-th of a step's batches from one dataset takes the n-th P of its shuffled people.
        row, batch = here[rows].nonzero(as_tuple=True)
        turn = here[rows].cumsum(dim=1)[row, batch] - 1
        place = (turn[:, None] * P + torch.arange(P)) % wanted
        drawn[rows[row], batch] = first + shuffled[row[:, None], place]
    member = _draw_members(size[drawn.flatten()], K, generator)
    index: torch.Tensor = order[start[drawn.flatten()][:, None] + member]
    return index.view(steps, ranks * P * K)


def _draw_members(count: torch.Tensor, K: int, generator: torch.Generator) -> torch.Tensor:
    """K of the numbers 0 to count - 1 for each (R,) count: (R, K), different where count >= K.

    Floyd's sampling without replacement (Bentley and Floyd, 1987), all rows at once.
    """
    uniform = torch.rand(len(count), K, generator=generator, dtype=torch.float64)
    repeated = (uniform * count[:, None]).long()
    distinct = torch.full_like(repeated, -1)
    for k in range(K):
        top = (count - K + k).clamp(min=0)
        candidate = (uniform[:, k] * (top + 1)).long()
        taken = (distinct == candidate[:, None]).any(dim=1)
        distinct[:, k] = torch.where(taken, top, candidate)
    return torch.where((count >= K)[:, None], distinct, repeated)


def balanced_batches(
    groups: Labels, per_group: int, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """Batches with the same number of images of each group, say of each camera.

    Each group goes through random permutations of its own images, one after the other, so that
    how often two images of a group are drawn differs by one at most.

    Args:
        groups: (N,) numbers 0 to G - 1, all of them in use.
        per_group: images of each group in a batch.

    Returns:
        (steps, G * per_group) indices, all of group 0 first.

    Raises:
        ValueError: a group without images, or a number below 1.
    """
    groups = torch.as_tensor(groups)
    if min(per_group, steps) < 1:
        raise ValueError(f"{per_group} images of a group and {steps} steps must be at least 1 each")
    numbers, count = torch.unique(groups, return_counts=True)
    if not len(groups) or numbers.tolist() != list(range(len(numbers))):
        raise ValueError(f"groups must be numbered 0 to G - 1, each with images, got {numbers}")
    needed = steps * per_group
    rounds = (needed + count - 1) // count
    size = rounds * count
    group = torch.arange(len(count)).repeat_interleave(size)
    begin = size.cumsum(0) - size
    within = torch.arange(len(group)) - begin[group]
    image = groups.argsort(stable=True)[(count.cumsum(0) - count)[group] + within % count[group]]
    # One sort shuffles each round of each group in its own place.
    place = (rounds.cumsum(0) - rounds)[group] + within // count[group]
    shuffle = torch.rand(len(place), generator=generator, dtype=torch.float64)
    image = image[(place + shuffle).argsort()]
    table = image[begin[:, None] + torch.arange(needed)]
    return table.view(len(count), steps, per_group).transpose(0, 1).flatten(1)
