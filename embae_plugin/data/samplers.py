"""torchreid samplers around the batches of :mod:`embae_plugin.data.batches`.

Each pass over a sampler is a different epoch; the same seed gives the same epochs. Its length is
exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from embae_plugin.data.batches import Identities, balanced_batches
from embae_plugin.torchreid_bridge.manager_items import Item


class _EpochSampler(Sampler[int]):
    """A sampler that draws a new epoch on each pass, from its seed and the epoch's number."""

    def __init__(self, num_images: int, batch_size: int, seed: int | None) -> None:
        if num_images == 0:
            raise ValueError("the data source has no images")
        self.batch_size = batch_size
        self.steps = max(1, num_images // max(1, batch_size))
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
        return iter(self._draw(generator).flatten().tolist())

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError


class RandomDatasetIdentitySampler(_EpochSampler):
    """P x K batches, each from one dataset; see :mod:`embae_plugin.data.batches`.

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
        self.num_pids = self._parts(num_instances, f"num_instances (K = {num_instances})")
        self.num_instances, self.choose = num_instances, choose
        labels = torch.tensor([(item[1], item[3]) for item in data_source])
        self._identities = Identities.of(labels[:, 0], labels[:, 1], self.num_pids)

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        return self._identities.draw(
            self.num_pids, self.num_instances, self.steps, generator, self.choose
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
        names, self.groups = torch.unique(cameras, dim=0, return_inverse=True)
        self.per_camera = self._parts(len(names), f"the number of cameras ({len(names)})")

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        return balanced_batches(self.groups, self.per_camera, self.steps, generator)
