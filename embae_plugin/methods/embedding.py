"""Stage 1: the metric embedding, trunk and f_emb, by the batch-hard triplet loss (paper 3).

The usual road reads decoded images from an :class:`ImageBank` and plans its own P×K batches. A
run with transforms that need a decoded PIL image takes torchreid's loader instead, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from embae_plugin import distributed
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.augment import unsupported_transforms
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding_phases import BankPhase, CommonStatistics, LoaderPhase
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.loop import PROCESSES, Phase
from embae_plugin.training.schedule import exponential_lr
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import EagerStep, resolve_precision

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


class ImageEmbeddingEngine(StageEngine):
    """Stage 1 as a torchreid engine.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model.
        optimizer: any optimiser of the model; None for the paper's Adam.
        scheduler: a torch scheduler stepped once an epoch; None for ``lr_at``.
        lr_at: epoch to learning rate; None for the paper's schedule with ``lr`` and ``final_lr``.
        soft_margin: softplus; False for a hinge with ``margin``.
        batch_size, num_instances: P·K and K; with several processes, of each.
        dataset_choice: ``proportional`` to a dataset's images, or ``uniform``.
        transforms: torchreid's names; None for what the datamanager was made with.
        precision: ``auto``, ``float32`` or ``bf16``.
        step: ``auto``, ``eager`` or ``graph``.
        camera_norm: normalise the images of each source camera in a batch by their own moments
            (Zhuang et al., ECCV 2020); afterwards the trunk's batch norm gets the statistics of
            all source images.
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
        camera_norm: bool = False,
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
        self.camera_norm = camera_norm
        if transforms is None:
            transforms = bridge.transforms_of(datamanager)["transforms"]
        self.transforms = tuple(name.lower() for name in transforms)

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        return {
            **super().identity(),
            **({} if self.lr_at or self.scheduler else self.schedule),
            "images": len(self.data.source),
            PROCESSES: distributed.size(),
            "batch_size": self.batch_size,
            "num_instances": self.num_instances,
            "dataset_choice": self.dataset_choice,
            "transforms": list(self.transforms),
            "loss": repr(self.loss),
            **({"camera_norm": True} if self.camera_norm else {}),
        }

    def rate(self, epoch: int, max_epoch: int) -> float | None:
        """The epoch's learning rate, or None where a scheduler rules."""
        if self.scheduler is not None:
            return None
        if self.lr_at is not None:
            return self.lr_at(epoch)
        return exponential_lr(epoch, max_epoch, **self.schedule)  # type: ignore[arg-type]

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """From decoded images, or from torchreid's loader; and statistics with camera_norm."""
        more: list[Phase] = [CommonStatistics(self)] if self.camera_norm else []
        foreign = unsupported_transforms(self.transforms)
        if not foreign:
            return [BankPhase(self, max_epoch), *more]
        if self.data.train_loader is None:
            raise ValueError(
                f"transforms {', '.join(foreign)} need torchreid's loader, which this run has not"
            )
        logger.warning("transforms %s are done by torchreid's loader, image by image in every "
                       "epoch; random_flip, random_crop and random_erase alone would run on "
                       "decoded images, many times faster", ", ".join(foreign))  # fmt: skip
        return [LoaderPhase(self, max_epoch), *more]

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """One step on a batch of torchreid's loader; torchreid's own interface."""
        images, pids = self.parse_data_for_train(data)
        eager = EagerStep(self.model, self.loss, self.optimizer,
                          resolve_precision(self.precision, self.device))  # fmt: skip
        images = images.to(self.device, memory_format=torch.channels_last)
        return {"loss": float(eager.compute(images, pids.to(self.device)))}
