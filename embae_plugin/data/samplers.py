"""torchreid samplers around the batches of :mod:`embae_plugin.data.batches`.

Each pass over a sampler is a different epoch; the same seed gives the same epochs. Its length is
exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import Sampler

from embae_plugin.data.batches import balanced_batches, identity_batches
from embae_plugin.torchreid_bridge.manager_items import Item


class _EpochSampler(Sampler[int]):
    """Draws a new epoch on each pass, from its seed (torch's, if None) and the epoch's number.

    ``data_source`` holds torchreid's items (path, pid, camid, dsetid).
    """

    _plan: Callable[[int, torch.Generator], torch.Tensor]  # so many batches

    def __init__(self, data_source: Sequence[Item], batch_size: int, seed: int | None) -> None:
        if not len(data_source):
            raise ValueError("the data source has no images")
        columns = zip(*(item[1:4] for item in data_source), strict=True)
        self.pids, self.camids, self.dsetids = map(torch.tensor, columns)
        self.batch_size = batch_size
        self.steps = max(1, len(data_source) // max(1, batch_size))
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = 0

    def _parts(self, part: int, what: str) -> int:
        """How many parts of so many images a batch has."""
        if part < 1 or self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size} and {what} must be at least 1")
        number, rest = divmod(self.batch_size, part)
        if rest:
            fitting = f"{number * part} or {(number + 1) * part}" if number else str(part)
            raise ValueError(
                f"batch size {self.batch_size} is not a multiple of {what}; {fitting} would be"
            )
        return number

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``; passes after it count on from there."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        entropy = np.random.SeedSequence([self.seed % 2**64, self.epoch])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        self.epoch += 1
        return iter(self._plan(self.steps, generator).flatten().tolist())


class RandomDatasetIdentitySampler(_EpochSampler):
    """Batches of P x K images of one dataset each; K is ``num_instances``.

    See :func:`identity_batches`. torchreid passes ``num_cams`` and ``num_datasets`` to every
    sampler; they are not used.

    Raises:
        ValueError: K does not divide the batch size, or a dataset has fewer than P identities.
    """

    def __init__(
        self, data_source: Sequence[Item], batch_size: int = 72, num_instances: int = 4,
        num_cams: int = 1, num_datasets: int = 1, *, seed: int | None = None,
    ) -> None:
        super().__init__(data_source, batch_size, seed)
        P = self._parts(num_instances, f"num_instances (K = {num_instances})")
        self._plan = partial(identity_batches, self.pids, self.dsetids, P, num_instances)
        self._plan(1, torch.Generator())  # refuses what cannot be drawn


class CameraBalancedSampler(_EpochSampler):
    """Batches with equally many images of each camera of each dataset, camera by camera.

    torchreid passes ``num_instances``, ``num_cams`` and ``num_datasets`` to every sampler; they
    are not used.

    Raises:
        ValueError: the number of cameras does not divide the batch size.
    """

    def __init__(
        self, data_source: Sequence[Item], batch_size: int, num_instances: int = 4,
        num_cams: int = 1, num_datasets: int = 1, *, seed: int | None = None,
    ) -> None:
        super().__init__(data_source, batch_size, seed)
        cameras = torch.stack([self.dsetids, self.camids], dim=1)
        names, groups = torch.unique(cameras, dim=0, return_inverse=True)
        per_camera = self._parts(len(names), f"the number of cameras ({len(names)})")
        self._plan = partial(balanced_batches, groups, per_camera)
