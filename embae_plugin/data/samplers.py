"""Which images make up a batch: P x K identities of one dataset, or equal shares of each camera.

The two functions draw a whole epoch at once, without a Python loop over images, identities or
cameras; the two classes are torchreid samplers around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from embae_plugin.data.manager_items import Item


class _Identities(NamedTuple):
    """Images sorted by identity: identity i is ``order[start[i] : start[i] + count[i]]``.

    Identities are numbered by dataset first: ``first[d] : first[d + 1]`` are those of dataset d.
    """

    order: torch.Tensor
    start: torch.Tensor
    count: torch.Tensor
    first: list[int]
    images: torch.Tensor

    @classmethod
    def of(cls, pids: torch.Tensor, dsetids: torch.Tensor, num_pids: int) -> _Identities:
        """Index (N,) identities of (N,) datasets; the same pid in two datasets is two people."""
        if pids.ndim != 1 or pids.shape != dsetids.shape or len(pids) == 0:
            raise ValueError(
                "pids and dsetids must be (N,) with N > 0, got "
                f"{tuple(pids.shape)} and {tuple(dsetids.shape)}"
            )
        names, dataset = dsetids.unique(return_inverse=True)
        pid = pids.unique(return_inverse=True)[1]
        key, identity, count = (dataset * len(pids) + pid).unique(
            return_inverse=True, return_counts=True
        )
        per_dataset = torch.bincount(key // len(pids), minlength=len(names)).tolist()
        small = [f"{d} has {n}" for d, n in zip(names.tolist(), per_dataset) if n < num_pids]
        if small:
            raise ValueError(
                f"a batch needs P = {num_pids} identities of one dataset, but dataset "
                f"{', dataset '.join(small)}; lower the batch size or raise the number of images "
                "for each identity"
            )
        return cls(
            order=identity.argsort(stable=True),
            start=count.cumsum(0) - count,
            count=count,
            first=[0, *np.cumsum(per_dataset).tolist()],
            images=torch.bincount(dataset),
        )


def identity_batches(
    pids: torch.Tensor,
    dsetids: torch.Tensor,
    P: int,
    K: int,
    steps: int,
    generator: torch.Generator,
    choose: str = "proportional",
) -> torch.Tensor:
    """P x K batches, each from one dataset (paper, section 3.3; Hermans et al., 2017).

    Each batch draws its dataset, then P different identities of it, then K images of each: K
    different ones where the identity has that many, else with replacement.

    Args:
        pids: (N,) identities.
        dsetids: (N,) datasets.
        P: identities in a batch.
        K: images of each.
        steps: number of batches.
        generator: on the CPU.
        choose: draw datasets in proportion to their images, or "uniform".

    Returns:
        (steps, P * K) indices, the K images of an identity side by side.

    Raises:
        ValueError: a dataset has fewer than P identities, or ``choose`` is unknown.
    """
    identities = _Identities.of(torch.as_tensor(pids), torch.as_tensor(dsetids), P)
    return _draw_identity_batches(identities, P, K, steps, generator, choose)


def _draw_identity_batches(
    identities: _Identities, P: int, K: int, steps: int, generator: torch.Generator, choose: str
) -> torch.Tensor:
    if choose not in ("proportional", "uniform"):
        raise ValueError(f"choose must be 'proportional' or 'uniform', not '{choose}'")
    share = identities.images.double()
    if choose == "uniform":
        share = torch.ones_like(share)
    dataset = torch.multinomial(share, steps, replacement=True, generator=generator)
    drawn = torch.empty(steps, P, dtype=torch.long)
    for d in range(len(share)):
        rows = (dataset == d).nonzero().flatten()
        first, last = identities.first[d], identities.first[d + 1]
        ticket = torch.rand(len(rows), last - first, generator=generator)
        drawn[rows] = first + ticket.topk(P, dim=1).indices
    member = _draw_members(identities.count[drawn.flatten()], K, generator)
    position = identities.start[drawn.flatten()][:, None] + member
    return identities.order[position].view(steps, P * K)


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
    groups: torch.Tensor, per_group: int, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """Batches with the same number of images of each group, say of each camera.

    Each group goes through random permutations of its own images, one after the other, so that
    how often two images of a group are drawn differs by one at most.

    Args:
        groups: (N,) numbers 0 to G - 1, all of them in use.
        per_group: images of each group in a batch.
        steps: number of batches.
        generator: on the CPU.

    Returns:
        (steps, G * per_group) indices, all of group 0 first.

    Raises:
        ValueError: a group without images.
    """
    groups = torch.as_tensor(groups)
    count = torch.bincount(groups)
    empty = (count == 0).nonzero().flatten().tolist()
    if len(groups) == 0 or empty:
        raise ValueError(f"each group needs at least one image; without: {empty or 'all'}")
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


class _EpochSampler(Sampler[int]):
    """A sampler that draws a new epoch on each pass, from its seed and the epoch's number.

    Args:
        num_images: of the data source.
        batch_size: of the data loader.
        seed: None takes torch's initial seed, which torchreid's ``set_random_seed`` sets.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int | None) -> None:
        if num_images == 0:
            raise ValueError("the data source has no images")
        self.batch_size = batch_size
        self.steps = max(1, num_images // batch_size)
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; passes after it count on from there."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        entropy = np.random.SeedSequence([self.seed % 2**64, self.epoch])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        self.epoch += 1
        return iter(self._draw(generator).flatten().tolist())

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError


class RandomDatasetIdentitySampler(_EpochSampler):
    """P x K batches, each from one dataset; see :func:`identity_batches`.

    Args:
        data_source: torchreid's items (path, pid, camid, dsetid).
        batch_size: P * K.
        num_instances: K.
        num_cams, num_datasets: torchreid passes them to every sampler; not used.
        choose: "proportional" or "uniform", how a dataset is drawn.
        seed: None, also when built by torchreid by name, takes ``torch.initial_seed()``.

    Raises:
        ValueError: K does not divide the batch size, or a dataset has fewer than P identities.
    """

    def __init__(
        self,
        data_source: Sequence[Item],
        batch_size: int = 72,
        num_instances: int = 4,
        num_cams: int = 1,
        num_datasets: int = 1,
        *,
        choose: str = "proportional",
        seed: int | None = None,
    ) -> None:
        super().__init__(len(data_source), batch_size, seed)
        _check_divides(batch_size, num_instances, f"num_instances (K = {num_instances})")
        self.num_instances, self.choose = num_instances, choose
        self.num_pids = batch_size // num_instances
        labels = torch.tensor([(item[1], item[3]) for item in data_source])
        self._identities = _Identities.of(labels[:, 0], labels[:, 1], self.num_pids)

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        return _draw_identity_batches(
            self._identities, self.num_pids, self.num_instances, self.steps, generator, self.choose
        )


class CameraBalancedSampler(_EpochSampler):
    """Batches with equally many images of each camera of each dataset, camera by camera.

    Args:
        data_source: torchreid's items (path, pid, camid, dsetid); pids are not looked at.
        batch_size: a multiple of the number of cameras.
        num_instances, num_cams, num_datasets: torchreid passes them to every sampler; not used.
        seed: None, also when built by torchreid by name, takes ``torch.initial_seed()``.

    Raises:
        ValueError: the number of cameras does not divide the batch size.
    """

    def __init__(
        self,
        data_source: Sequence[Item],
        batch_size: int,
        num_instances: int = 4,
        num_cams: int = 1,
        num_datasets: int = 1,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(len(data_source), batch_size, seed)
        cameras = torch.tensor([(item[3], item[2]) for item in data_source])
        names, self.groups = cameras.unique(dim=0, return_inverse=True)
        _check_divides(batch_size, len(names), f"the number of cameras ({len(names)})")
        self.per_camera = batch_size // len(names)

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        return balanced_batches(self.groups, self.per_camera, self.steps, generator)


def _check_divides(batch_size: int, part: int, what: str) -> None:
    if part < 1 or batch_size < 1:
        raise ValueError(f"batch size {batch_size} and {what} must be at least 1")
    if batch_size % part:
        below = batch_size - batch_size % part
        fitting = f"{below} or {below + part}" if below else str(part)
        raise ValueError(f"batch size {batch_size} is not a multiple of {what}; {fitting} would be")
