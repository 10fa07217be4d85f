"""Stage 1: the metric embedding, trunk and f_emb, by the batch-hard triplet loss (paper 3).

The usual road reads decoded images from an :class:`ImageBank` and plans its own P×K batches. A
run with transforms that need a decoded PIL image takes torchreid's loader instead, and says so.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.augment import Augmentation, unsupported_transforms
from embae_plugin.data.samplers import identity_batches
from embae_plugin.engine.base import StageEngine
from embae_plugin.engine.loop import Phase
from embae_plugin.engine.schedule import exponential_lr, seeded
from embae_plugin.engine.train_step import EagerStep, build_step, resolve_precision
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.models.embae import EmbAE

logger = logging.getLogger(__name__)


def paper_adam(
    parameters: Any, lr: float, device: torch.device, weight_decay: float = 0.0
) -> torch.optim.Adam:
    """Adam with the paper's β = (0.9, 0.999), fused, and capturable on a GPU."""
    graph = device.type == "cuda"
    rate = torch.tensor(lr, device=device) if graph else lr
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=weight_decay, fused=True, capturable=graph
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group's rate, in place where it is a tensor (a captured graph reads that)."""
    for group in optimizer.param_groups:
        scaled = lr * group.get("lr_mult", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


class ImageEmbeddingEngine(StageEngine):
    """Stage 1 as a torchreid engine.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model.
        optimizer: any optimiser of the model; None for the paper's Adam.
        scheduler: a torch scheduler stepped once an epoch; None for ``lr_at``.
        lr_at: epoch to learning rate; None for the paper's schedule with ``lr`` and ``final_lr``.
        soft_margin: softplus; False for a hinge with ``margin``.
        batch_size, num_instances: P·K and K.
        dataset_choice: ``proportional`` to a dataset's images, or ``uniform``.
        transforms: torchreid's names; None for what the datamanager was made with.
        precision: ``auto``, ``float32`` or ``bf16``.
        step: ``auto``, ``eager`` or ``graph``.
        use_gpu, seed, store: see :class:`StageEngine`.

    Raises:
        ValueError: K does not divide the batch, or a source has fewer than P identities.
    """

    stage = "embedding"
    trunk_learns = True

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        lr: float = 1e-4,
        final_lr: float = 1e-7,
        constant_epochs: int = 100,
        lr_at: Callable[[int], float] | None = None,
        soft_margin: bool = True,
        margin: float = 0.3,
        batch_size: int = 72,
        num_instances: int = 4,
        dataset_choice: str = "proportional",
        transforms: Sequence[str] | None = None,
        precision: str = "auto",
        step: str = "auto",
        use_gpu: bool = True,
        seed: int = 1,
        store: Any = None,
    ) -> None:
        super().__init__(datamanager, model, use_gpu, seed, store)
        self.optimizer = optimizer or paper_adam(self.model.parameters(), lr, self.device)
        self.scheduler = scheduler
        self.register_model("model", self.model, self.optimizer, scheduler)
        self.lr_at = lr_at
        self.schedule = {"lr": lr, "final_lr": final_lr, "constant_epochs": constant_epochs}
        self.loss = BatchHardTripletLoss("soft" if soft_margin else margin)
        self.batch_size, self.num_instances = batch_size, num_instances
        self.dataset_choice, self.precision, self.step = dataset_choice, precision, step
        if transforms is None:
            transforms = bridge.transforms_of(datamanager)["transforms"]
        self.transforms = tuple(name.lower() for name in transforms)

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {
            **super().identity(),
            **({} if self.lr_at or self.scheduler else self.schedule),
            "images": len(self.data.source),
            "batch_size": self.batch_size,
            "num_instances": self.num_instances,
            "dataset_choice": self.dataset_choice,
            "transforms": list(self.transforms),
            "loss": repr(self.loss),
        }

    def rate(self, epoch: int, max_epoch: int) -> float | None:
        """The epoch's learning rate, or None where a scheduler rules."""
        if self.scheduler is not None:
            return None
        if self.lr_at is not None:
            return self.lr_at(epoch)
        return exponential_lr(epoch, max_epoch, **self.schedule)  # type: ignore[arg-type]

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """One phase: from decoded images, or from torchreid's loader."""
        foreign = unsupported_transforms(self.transforms)
        if not foreign:
            return [BankPhase(self, max_epoch)]
        if self.data.train_loader is None:
            raise ValueError(
                f"transforms {', '.join(foreign)} need torchreid's loader, which this run has not"
            )
        logger.warning("transforms %s are done by torchreid's loader, image by image in every "
                       "epoch; random_flip, random_crop and random_erase alone would run on "
                       "decoded images, many times faster", ", ".join(foreign))  # fmt: skip
        return [LoaderPhase(self, max_epoch)]

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """One step on a batch of torchreid's loader; torchreid's own interface."""
        images, pids = self.parse_data_for_train(data)
        eager = EagerStep(self.model, self.loss, self.optimizer,
                          resolve_precision(self.precision, self.device))  # fmt: skip
        images = images.to(self.device, memory_format=torch.channels_last)
        return {"loss": float(eager.compute(images, pids.to(self.device)))}


class _EmbeddingPhase:
    """What both roads share: the optimiser, its schedule, the step."""

    name = "embedding"
    steps = 0

    def __init__(self, engine: ImageEmbeddingEngine, max_epoch: int) -> None:
        self.engine, self.epochs = engine, max_epoch
        bf16 = resolve_precision(engine.precision, engine.device)
        self.eager = EagerStep(engine.model, engine.loss, engine.optimizer, bf16)

    def start(self) -> None:
        self.engine.model.to(memory_format=torch.channels_last).requires_grad_(True)

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
    """P×K batches gathered from an image bank and augmented on the device."""

    def __init__(self, engine: ImageEmbeddingEngine, max_epoch: int) -> None:
        super().__init__(engine, max_epoch)
        records = engine.data.source
        if records.pids is None:
            raise ValueError("stage 1 learns from identities, and the source images carry none")
        if engine.batch_size % engine.num_instances:
            raise ValueError(f"batch size {engine.batch_size} is not divisible by "
                             f"K = {engine.num_instances} images of an identity")  # fmt: skip
        self.pids, self.dsetids = records.pids, records.dsetids
        self.steps = max(1, len(records) // engine.batch_size)
        self.augment = Augmentation(engine.transforms, engine.store.mean, engine.store.std)
        self._plan(0)  # refuses too few identities now, not after the images are decoded
        self.plan = torch.zeros(0)

    def _plan(self, epoch: int) -> torch.Tensor:
        engine = self.engine
        return identity_batches(
            self.pids, self.dsetids, engine.batch_size // engine.num_instances,
            engine.num_instances, self.steps, seeded(engine.seed, "batches", epoch),
            choose=engine.dataset_choice,
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        engine = self.engine
        self.bank = engine.store.images(engine.data.source, "source")
        self.do_step = build_step(
            engine.step, self.eager, self.bank, self.augment, engine.batch_size
        )
        self.pids_t = torch.from_numpy(self.pids)

    def start_epoch(self, epoch: int) -> float:
        self.plan = self._plan(epoch)
        return super().start_epoch(epoch)

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        index = self.plan[step]
        generator = seeded(self.engine.seed, "augment", epoch, step)
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
        self.loader = engine.data.train_loader
        self.steps = len(self.loader)
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
        images = data["img"].to(device, memory_format=torch.channels_last)
        return {"loss": self.eager.compute(images, data["pid"].to(device))}

    def _next(self) -> Any:
        self.position += 1
        try:
            return next(self.batches)
        except StopIteration:  # torchreid's RandomIdentitySampler gives less than it promises
            self.batches = iter(self.loader)
            return next(self.batches)

    def describe(self, epoch: int, step: int) -> str:
        return f"The batch's images: {', '.join(self.paths)}"
