"""Learning by reconstruction on cached trunk features: the common core of stages 2 and 3.

A phase learns some of f_emb, f_nui and f_dec and keeps the others fixed. What is fixed is in
eval mode, and since its inputs are cached features, its outputs are constants too: they are
computed once, before the first step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from embae_plugin.data.batches import balanced_batches
from embae_plugin.losses import ReconstructionLoss
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.training.phase import Batch, OptimisedPhase
from embae_plugin.training.schedule import seeded
from embae_plugin.training.stage_engine import StageEngine

if TYPE_CHECKING:
    from embae_plugin.methods.stopping import Watch

logger = logging.getLogger(__name__)

PARTS = ("f_emb", "f_nui", "f_dec")


def merge_lone_groups(groups: torch.Tensor, least: int = 2) -> torch.Tensor:
    """Gives groups with fewer than ``least`` images to the largest one, and says so.

    A camera with a single image has no batch statistics, so it cannot have an encoder of its own.

    Args:
        groups: (N,) dense group numbers.

    Returns:
        (N,) dense group numbers.
    """
    counts = torch.bincount(groups)
    lone = (counts < least).nonzero().flatten()
    if not len(lone) or len(counts) == 1:
        return groups
    largest = int(counts.argmax())
    logger.warning(
        "camera(s) %s have fewer than %d images; they share the encoder of camera %d, the one "
        "with the most", ", ".join(map(str, lone.tolist())), least, largest)
    merged = torch.where(torch.isin(groups, lone), largest, groups)
    dense: torch.Tensor = torch.unique(merged, return_inverse=True)[1]
    return dense


@torch.inference_mode()
def _constant(module: nn.Module, h: torch.Tensor, *extra: torch.Tensor) -> torch.Tensor:
    """Outputs of a fixed module for every feature, (M, D) to (M, d), 8192 at a time."""
    parts: list[torch.Tensor] = [
        module(h[i : i + 8192], *(e[i : i + 8192] for e in extra)) for i in range(0, len(h), 8192)
    ]
    return torch.cat(parts).clone()


class ReconstructionPhase(OptimisedPhase):
    """Minimises |f_dec(z_id, z_nui) − h|², and a bottleneck's penalty, over the parts in ``learn``.

    An epoch has as many steps as a pass over the images takes where cameras have equally many; of
    unequal groups the small ones are seen several times and the large ones in part.

    Args:
        engine: whose model is used; its trunk is never touched.
        name: of the phase, in logs and checkpoints.
        features: (N, V, D) cached trunk features in V views; a step draws a view at random,
            which with V = 2 is the paper's horizontal flip.
        groups: (N,) which encoder of f_nui each image goes through.
        learn: names out of :data:`PARTS`.
        epochs: of the phase.
        lr, final_lr: Adam's rate at the first and the last epoch, exponential in between.
        batch_size: images in a step, at most; split evenly over the groups.
        bottleneck: what holds z_nui back.
    """

    def __init__(
        self,
        engine: StageEngine,
        name: str,
        features: torch.Tensor,
        groups: torch.Tensor,
        learn: Sequence[str],
        epochs: int,
        lr: float,
        final_lr: float,
        batch_size: int,
        bottleneck: Bottleneck = OPEN,
    ) -> None:
        super().__init__(engine, name, epochs)
        self.model, self.learn = engine.model, tuple(learn)
        self.lr, self.final_lr = lr, final_lr
        self.views, self.rows = features.shape[1], features.reshape(-1, features.shape[2])
        self.groups = groups
        self.num_groups = int(groups.max()) + 1 if len(groups) else 1
        self.per_group = max(2, batch_size // self.num_groups)
        self.steps = max(1, len(groups) // (self.per_group * self.num_groups))
        self.error, self.bottleneck = ReconstructionLoss(), bottleneck
        self.z_id: torch.Tensor | None = None
        self.z_nui: torch.Tensor | None = None
        self.watch: Watch | None = None  # whose state is kept with the phase's

    def parts(self) -> list[nn.Module]:
        """See :class:`OptimisedPhase`."""
        return [getattr(self.model, name) for name in self.learn]

    def start(self) -> None:
        """Computes the outputs of what is not learned, once."""
        super().start()
        row_groups = self.groups.repeat_interleave(self.views).to(self.rows.device)
        if "f_emb" not in self.learn:
            self.z_id = _constant(self.model.f_emb, self.rows)
        if "f_nui" not in self.learn:
            self.z_nui = _constant(self.model.f_nui, self.rows, row_groups)

    def batches(self, epoch: int) -> torch.Tensor:
        """(steps, B) images of equally many of each group, and a view of each."""
        generator = seeded(self.engine.seed, self.name, epoch)
        index = balanced_batches(self.groups, self.per_group, self.steps, generator)
        view = torch.randint(self.views, index.shape, generator=generator)
        return (index * self.views + view).to(self.rows.device)

    def generator(self, epoch: int, step: int) -> torch.Generator:
        """See :class:`OptimisedPhase`."""
        return seeded(self.engine.seed, self.name, "z_nui", epoch, step)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error; a penalty is learned from and not shown."""
        model, rows = self.model, batch.rows
        h = self.rows[rows]
        z_id = model.f_emb(h) if self.z_id is None else self.z_id[rows]
        if self.z_nui is None:
            grouped = h.view(self.num_groups, self.per_group, -1)
            z_nui = model.f_nui.forward_grouped(grouped).flatten(0, 1)
        else:
            z_nui = self.z_nui[rows]
        if self.bottleneck == OPEN:
            return {"reconstruction": self.error(model.reconstruct(z_id, z_nui), h)}
        penalty = self.bottleneck.penalty(z_id, z_nui)
        z_nui = self.bottleneck.narrow(z_nui, batch.generator)
        error = self.error(model.reconstruct(z_id, z_nui), h)
        return {"loss": error + penalty, "reconstruction": error}

    def state(self) -> dict[str, Any]:
        """The best epoch so far, if one is looked for."""
        return {} if self.watch is None else {"watch": self.watch.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`OptimisedPhase`."""
        if self.watch is not None and "watch" in state:
            self.watch.load_state_dict(state["watch"])

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step, by their place in the list."""
        images = torch.div(self.plan[step], self.views, rounding_mode="floor").tolist()
        return f"The batch's images (by number): {images}"
