"""Stage 1: the metric embedding, trunk and f_emb, by the batch-hard triplet loss (paper 3).

The usual road reads decoded images from an :class:`ImageBank` and plans its own P×K batches. A
run with transforms that need a decoded PIL image takes torchreid's loader instead, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.augment import unsupported_transforms
from embae_plugin.data.records import ImageRecords
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding_phases import BankPhase, CommonStatistics, LoaderPhase
from embae_plugin.methods.registry import BASELINE, INITIAL, Row, register_method
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.config import lr_scheduler_kwargs, optimizer_kwargs
from embae_plugin.settings.fields import Settings, setting
from embae_plugin.training.phase import Phase
from embae_plugin.training.schedule import exponential_lr
from embae_plugin.training.stage_engine import StageEngine
from embae_plugin.training.train_step import PRECISIONS, EagerStep, resolve_precision

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from embae_plugin.data.records import ReIDData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TripletSettings(Settings):
    """Batches and loss of learning from identities; torchreid's keys."""

    margin: float = setting(0.3, "The hinge's margin.", key="loss.triplet.margin")
    batch_size: int = setting(72, "P·K; with several processes, of each.", above=0,
                              key="train.batch_size")
    num_instances: int = setting(4, "K.", above=0, key="sampler.num_instances")

    def check(self) -> None:
        """See :class:`Settings`."""
        below = self.batch_size - self.batch_size % self.num_instances
        fitting = f"{below} or {below + self.num_instances}" if below else str(self.num_instances)
        if self.batch_size % self.num_instances:
            raise ValueError(
                f"train.batch_size is {self.batch_size}, which sampler.num_instances (K = "
                f"{self.num_instances}) does not divide; {fitting} would do"
            )


@dataclass(frozen=True)
class EmbeddingSettings(TripletSettings, node="embedding"):
    """Stage 1."""

    soft_margin: bool = setting(True, "Softplus; False for a hinge with loss.triplet.margin.")
    dataset_choice: str = setting("proportional", "How a batch's dataset is drawn: by its number "
                                  "of images, or each alike.", choices=("proportional", "uniform"))
    constant_epochs: int = setting(-1, "With train.lr_scheduler exponential: epochs at train.lr; "
                                   "-1 for a quarter of them, as in the paper.", least=-1)
    final_lr: float = setting(1e-7, "… then exponential decay to this at the last epoch.", above=0)
    precision: str = setting("auto", "Of learning on images, in every method: auto takes the "
                             "faster.", choices=PRECISIONS)
    step: str = setting("auto", "Operation by operation, or one captured CUDA graph.",
                        choices=("auto", "eager", "graph"), compared=False)
    camera_norm: bool = setting(False, "Normalise each source camera's images in a batch by their "
                                "own moments (Zhuang et al., ECCV 2020).")
    lr: float = setting(1e-4, "Adam's learning rate.", above=0, key="train.lr")
    max_epoch: int = setting(400, "Epochs.", least=0, key="train.max_epoch", compared=False)
    lr_scheduler: str = setting("exponential", "The schedule.", key="train.lr_scheduler")
    stepsize: tuple[int, ...] = setting((20,), "Of step schedules.", key="train.stepsize")
    gamma: float = setting(0.1, "Of step schedules.", key="train.gamma")
    transforms: tuple[str, ...] = setting(("random_flip",), "Augmentation.", key="data.transforms")
    optim: str = setting("adam", "The optimiser.", key="train.optim")
    weight_decay: float = setting(0.0, "Of the optimiser.", least=0, key="train.weight_decay")
    beta1: float = setting(0.9, "Adam's.", least=0, below=1, key="adam.beta1")
    beta2: float = setting(0.999, "Adam's.", least=0, below=1, key="adam.beta2")

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        graph, key = self.step == "graph", "embae.embedding.step graph"
        if graph and self.camera_norm:
            raise ValueError(f"{key} cannot be had with embae.embedding.camera_norm, which splits "
                             "every batch in another way: leave it at auto")
        if graph and self.optim != "adam":
            raise ValueError(f"{key} works with train.optim adam only")
        loader = unsupported_transforms(self.transforms)
        if loader and self.dataset_choice != "proportional":
            raise ValueError(f"data.transforms {', '.join(loader)} are done by torchreid's loader, "
                             "which draws datasets by their number of images: leave "
                             "embae.embedding.dataset_choice at proportional")


def paper_adam(
    parameters: Any, lr: float, device: torch.device, weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam, by default with the paper's β, fused, and capturable on a GPU."""
    graph = device.type == "cuda"
    rate = torch.tensor(lr, device=device) if graph else lr
    return torch.optim.Adam(
        parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=True, capturable=graph
    )


@register_method(
    Row(BASELINE, INITIAL, "the embedding of stage 1, or the model as it is", stage="embedding",
        adapts=False),
    Row("baseline-h", BASELINE, "the same model by its trunk features h", show="h", adapts=False),
)
class ImageEmbeddingEngine(StageEngine):
    """Stage 1 as a torchreid engine.

    Args:
        datamanager: torchreid's ``ImageDataManager`` or a ``ReIDData``.
        model: an EmbAE model.
        optimizer: any optimiser of the model; None for the settings' one.
        scheduler: a torch scheduler stepped once an epoch; None for the settings' schedule.
        lr_at: epoch to learning rate, in place of the settings' schedule.
        transforms: torchreid's names; None for what the datamanager was made with.
        **given: see :class:`EmbeddingSettings` and :class:`StageEngine`.

    Raises:
        ValueError: K does not divide the batch, or a source has fewer than P identities.
    """

    settings_class = EmbeddingSettings
    stage, gate = "embedding", "embedding"
    trunk_learns = True
    scored_phases = ("embedding",)

    def __init__(
        self,
        datamanager: Any,
        model: EmbAE,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        lr_at: Callable[[int], float] | None = None,
        transforms: Sequence[str] | None = None,
        **given: Any,
    ) -> None:
        if "settings" not in given:
            names = bridge.transforms_of(datamanager)["transforms"] if transforms is None else (
                transforms)
            given["transforms"] = tuple(name.lower() for name in names)
        super().__init__(datamanager, model, **given)
        node = self.settings
        self.optimizer = optimizer or paper_adam(
            self.model.parameters(), node.lr, self.device, node.weight_decay,
            (node.beta1, node.beta2),
        )
        self.scheduler, self.lr_at, self.foreign_optimizer = scheduler, lr_at, bool(optimizer)
        self.register_model("model", self.model, self.optimizer, scheduler)
        self.loss = BatchHardTripletLoss("soft" if node.soft_margin else node.margin)
        self.transforms = tuple(name.lower() for name in node.transforms)

    @classmethod
    def inputs(cls, cfg: CfgNode, data: ReIDData, model: EmbAE, start: EmbAE) -> dict[str, Any]:
        """torchreid's optimiser and schedule, where they are not the paper's."""
        train, device = cfg.train, next(model.parameters()).device
        if train.optim == "adam" and not train.staged_lr:
            betas = (cfg.adam.beta1, cfg.adam.beta2)
            optimizer: torch.optim.Optimizer = paper_adam(
                model.parameters(), train.lr, device, train.weight_decay, betas
            )
            made = {} if train.lr_scheduler == "exponential" else {"optimizer": optimizer}
        else:
            optimizer = bridge.build_optimizer(model, **optimizer_kwargs(cfg))
            made = {"optimizer": optimizer}
        if train.lr_scheduler == "exponential":
            return made
        scheduler = bridge.build_lr_scheduler(optimizer, **lr_scheduler_kwargs(cfg))
        return {**made, "scheduler": scheduler}

    def learns_from(self) -> ImageRecords:
        """See :meth:`StageEngine.learns_from`."""
        return self.data.source

    def identity(self) -> dict[str, Any]:
        """See :meth:`StageEngine.identity`."""
        found = {**super().identity(), "loss": repr(self.loss)}
        if self.foreign_optimizer:
            how = {k: v for k, v in self.optimizer.defaults.items() if k != "lr"}
            found["optimizer"] = f"{type(self.optimizer).__name__} {how}"
        for name in ("soft_margin", "margin"):  # the loss says it
            del found[name]
        return found

    def rate(self, epoch: int, max_epoch: int) -> float | None:
        """The epoch's learning rate, or None where a scheduler rules."""
        if self.scheduler is not None:
            return None
        if self.lr_at is not None:
            return self.lr_at(epoch)
        node, constant = self.settings, self.settings.constant_epochs
        constant = max_epoch // 4 if constant < 0 else constant
        return exponential_lr(epoch, max_epoch, node.lr, node.final_lr, constant)

    def phases(self, max_epoch: int) -> Sequence[Phase]:
        """From decoded images, or from torchreid's loader; and statistics with camera_norm."""
        more: list[Phase] = [CommonStatistics(self)] if self.settings.camera_norm else []
        foreign = unsupported_transforms(self.transforms)
        if not foreign:
            return [BankPhase(self, max_epoch), *more]
        if self.data.train_loader is None:
            raise ValueError(
                f"transforms {', '.join(foreign)} need torchreid's loader, which this run has not"
            )
        logger.warning("transforms %s are done by torchreid's loader, image by image in every "
                       "epoch; random_flip, random_crop and random_erase alone would run on "
                       "decoded images, many times faster", ", ".join(foreign))
        return [LoaderPhase(self, max_epoch), *more]

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """One step on a batch of torchreid's loader; torchreid's own interface."""
        images, pids = self.parse_data_for_train(data)
        bf16 = resolve_precision(self.settings.precision, self.device)
        eager = EagerStep(self.model, self.loss, self.optimizer, bf16)
        images = images.to(self.device, memory_format=torch.channels_last)
        return {"loss": float(eager.compute(images, pids.to(self.device)))}
