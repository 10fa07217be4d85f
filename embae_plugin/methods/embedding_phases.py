"""The two roads of stage 1: decoded images on the device, or torchreid's own loader.

With ``camera_norm`` either is followed by one pass for the statistics of all source images.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embae_plugin import distributed
from embae_plugin.data.augment import ON_DEVICE, Augmentation, unsupported_transforms
from embae_plugin.data.batches import identity_batches
from embae_plugin.methods.camera_statistics import estimate_common
from embae_plugin.models.camera_batches import batch_of_cameras, join_norms, split_norms
from embae_plugin.training.phase import OneStep, set_lr
from embae_plugin.training.schedule import seeded
from embae_plugin.training.train_step import EagerStep, build_step

if TYPE_CHECKING:
    from embae_plugin.methods.embedding import ImageEmbeddingEngine


class _EmbeddingPhase:
    """What both roads share: the optimiser, its schedule, the step."""

    name = "embedding"
    steps = images = 0

    def __init__(self, engine: ImageEmbeddingEngine, max_epoch: int) -> None:
        self.engine, self.epochs = engine, max_epoch
        self.eager = EagerStep(engine.model, engine.loss, engine.optimizer, engine.bf16)

    def start(self) -> None:
        self.engine.model.to(memory_format=torch.channels_last).requires_grad_(True)
        if self.engine.settings.camera_norm:
            split_norms(self.engine.model.trunk)

    def by_camera(self, cameras: torch.Tensor) -> AbstractContextManager[Any]:
        """While it lasts, the trunk normalises a batch sorted by ``cameras`` (B,) by them."""
        by_camera = self.engine.settings.camera_norm
        return batch_of_cameras(cameras) if by_camera else nullcontext()

    def start_epoch(self, epoch: int) -> float:
        self.engine.model.train()
        rate = self.engine.rate(epoch, self.epochs)
        if rate is None:
            if self.engine.scheduler.last_epoch < epoch:
                self.engine.scheduler.step()
        else:
            set_lr(self.engine.optimizer, rate)
        return float(self.engine.optimizer.param_groups[-1]["lr"])

    def state_dict(self) -> dict[str, Any]:
        scheduler = self.engine.scheduler
        return {
            "optimizer": self.engine.optimizer.state_dict(),
            "scheduler": scheduler.state_dict() if scheduler is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        optimizer, scheduler = self.engine.optimizer, self.engine.scheduler
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            if torch.is_tensor(group["lr"]):  # loaded on the CPU; a capturable step wants the GPU
                group["lr"] = group["lr"].to(self.engine.device)
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])


class BankPhase(_EmbeddingPhase):
    """P×K batches gathered from an image bank and augmented on the device.

    With several processes, each takes its own batch out of one plan for all of them.
    """

    def __init__(self, engine: ImageEmbeddingEngine, max_epoch: int) -> None:
        super().__init__(engine, max_epoch)
        records, size = engine.source, engine.settings.batch_size
        self.pids, self.dsetids = np.asarray(records.pids), records.dsetids
        self.images = size * distributed.size()
        self.steps = max(1, len(records) // self.images)
        self.augment = Augmentation(engine.transforms, engine.store.mean, engine.store.std)
        self.cameras = records.groups("camera")
        self._plan(0)  # refuses too few identities now, not after the images are decoded
        self.plan = torch.zeros(0)

    def _plan(self, epoch: int) -> torch.Tensor:
        node, first = self.engine.settings, distributed.rank() * self.engine.settings.batch_size
        return identity_batches(
            self.pids, self.dsetids, node.batch_size // node.num_instances, node.num_instances,
            self.steps, seeded(self.engine.seed, "batches", epoch), choose=node.dataset_choice,
            ranks=distributed.size(),
        )[:, first : first + node.batch_size]

    def start(self) -> None:
        super().start()
        engine, node = self.engine, self.engine.settings
        self.bank = engine.store.images(engine.data.source, "source")
        self.do_step = build_step(
            node.step, self.eager, self.bank, self.augment, node.batch_size, node.camera_norm
        )
        self.pids_t = torch.from_numpy(self.pids)

    def start_epoch(self, epoch: int) -> float:
        self.plan = self._plan(epoch)
        return super().start_epoch(epoch)

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        index = self.plan[step]
        if self.engine.settings.camera_norm:
            index = index[self.cameras[index].argsort(stable=True)]
        rank = distributed.rank()
        which = ("augment", epoch, step, rank) if rank else ("augment", epoch, step)
        generator = seeded(self.engine.seed, *which)
        with self.by_camera(self.cameras[index]):
            loss = self.do_step(self.bank, index, self.pids_t[index], self.augment, generator)
        return {"loss": loss}

    def describe(self, epoch: int, step: int) -> str:
        names = [self.bank.paths[i] for i in self.plan[step].tolist()]
        return f"The batch's images: {', '.join(names)}"


class LoaderPhase(_EmbeddingPhase):
    """Batches from torchreid's loader, for transforms that need a decoded PIL image.

    torchreid's transforms draw from the global random states, so those are set at the start of
    each epoch; a run resumed within an epoch reads and drops the batches it had done.
    """

    def __init__(self, engine: ImageEmbeddingEngine, max_epoch: int) -> None:
        super().__init__(engine, max_epoch)
        if distributed.size() > 1:
            raise ValueError(
                f"transforms {', '.join(unsupported_transforms(engine.transforms))} need "
                "torchreid's loader, which feeds one process: start without torchrun, or use "
                f"{', '.join(ON_DEVICE)} alone"
            )
        self.loader = engine.data.train_loader
        self.steps, self.images = len(self.loader), self.loader.batch_size or 0
        if not self.steps:
            raise ValueError(
                "torchreid's loader gives no batch: there are fewer training images than "
                f"train.batch_size {self.loader.batch_size}"
            )
        self.batches: Iterator[Any] = iter(())
        self.position = 0
        self.paths: list[str] = []

    def start_epoch(self, epoch: int) -> float:
        number = int(seeded(self.engine.seed, "loader", epoch).initial_seed() % 2**31)
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(epoch)
        self.batches, self.position = iter(self.loader), 0
        return super().start_epoch(epoch)

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        while self.position < step:
            self._next()
        data = self._next()
        self.paths = list(data.get("impath", []))
        device = self.engine.device
        images, pids, cameras = data["img"], data["pid"], data["camid"]
        if self.engine.settings.camera_norm:
            cameras = data["dsetid"] * (1 + int(cameras.max())) + cameras
            order = cameras.argsort(stable=True)
            images, pids, cameras = images[order], pids[order], cameras[order]
        images = images.to(device, memory_format=torch.channels_last)
        with self.by_camera(cameras):
            return {"loss": self.eager.compute(images, pids.to(device))}

    def _next(self) -> Any:
        self.position += 1
        try:
            return next(self.batches)
        except StopIteration:  # torchreid's RandomIdentitySampler gives less than it promises
            self.batches = iter(self.loader)
            return next(self.batches)

    def describe(self, epoch: int, step: int) -> str:
        return f"The batch's images: {', '.join(self.paths)}"


class CommonStatistics(OneStep):
    """Batch norm statistics of all source images, for a trunk that has learned camera by camera.

    Until a target's cameras have their own (:class:`ImageNormEngine`), these serve.
    """

    def __init__(self, engine: ImageEmbeddingEngine) -> None:
        self.engine = engine

    def start(self) -> None:
        """Gives the trunk its own layers again."""
        join_norms(self.engine.model.trunk)

    def work(self) -> None:
        """Estimates them."""
        engine = self.engine
        estimate_common(engine.model, engine.data.source, engine.store, engine.seed)
