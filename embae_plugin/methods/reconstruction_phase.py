"""Learning by reconstruction on cached trunk features: the common core of stages 2 and 3.

A phase learns some of f_emb, f_nui and f_dec and keeps the others fixed. What is fixed is in
eval mode, and since its inputs are cached features, its outputs are constants too: they are
computed once, before the first step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from embae_plugin.data.batches import balanced_batches
from embae_plugin.losses import ReconstructionLoss
from embae_plugin.losses.bottleneck import OPEN, Bottleneck
from embae_plugin.models.embae import EmbAE
from embae_plugin.training.schedule import exponential_lr, seeded

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
        "with the most", ", ".join(map(str, lone.tolist())), least, largest)  # fmt: skip
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


class ReconstructionPhase:
    """Minimises |f_dec(z_id, z_nui) − h|², and a bottleneck's penalty, over the parts in ``learn``.

    Args:
        name: of the phase, in logs and checkpoints.
        model: the EmbAE model; its trunk is never touched.
        features: (N, V, D) cached trunk features in V views; a step draws a view at random,
            which with V = 2 is the paper's horizontal flip.
        groups: (N,) which encoder of f_nui each image goes through.
        learn: names out of :data:`PARTS`.
        epochs: passes over the data.
        lr, final_lr: Adam's rate at the first and the last epoch, exponential in between.
        batch_size: images in a step, at most; split evenly over the groups.
        seed: of batches and views.
        bottleneck: what holds z_nui back.
    """

    def __init__(
        self,
        name: str,
        model: EmbAE,
        features: torch.Tensor,
        groups: torch.Tensor,
        learn: Sequence[str],
        epochs: int,
        lr: float,
        final_lr: float,
        batch_size: int,
        seed: int,
        bottleneck: Bottleneck = OPEN,
    ) -> None:
        self.name, self.model, self.learn, self.epochs = name, model, tuple(learn), epochs
        self.lr, self.final_lr, self.seed = lr, final_lr, seed
        self.views = features.shape[1]
        self.rows = features.reshape(-1, features.shape[2])
        self.groups = groups
        self.num_groups = int(groups.max()) + 1 if len(groups) else 1
        self.per_group = max(2, batch_size // self.num_groups)
        self.steps = max(1, len(groups) // (self.per_group * self.num_groups))
        self.loss, self.bottleneck = ReconstructionLoss(), bottleneck
        self.optimizer: torch.optim.Optimizer | None = None
        self.z_id: torch.Tensor | None = None
        self.z_nui: torch.Tensor | None = None
        self.plan = torch.zeros(0, dtype=torch.long)
        self.watch: Watch | None = None  # whose state is kept with the phase's

    def start(self) -> None:
        """Freezes what is not learned, computes its outputs once, makes the optimiser."""
        model, device = self.model, self.rows.device
        model.eval()
        model.requires_grad_(False)
        row_groups = self.groups.repeat_interleave(self.views).to(device)
        if "f_emb" not in self.learn:
            self.z_id = _constant(model.f_emb, self.rows)
        if "f_nui" not in self.learn:
            self.z_nui = _constant(model.f_nui, self.rows, row_groups)
        for name in self.learn:
            getattr(model, name).requires_grad_(True)
        parameters = [p for name in self.learn for p in getattr(model, name).parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=self.lr, fused=True)

    def start_epoch(self, epoch: int) -> float:
        """Draws the epoch's batches and views; returns its learning rate."""
        for name in self.learn:
            getattr(self.model, name).train()
        generator = seeded(self.seed, self.name, epoch)
        index = balanced_batches(self.groups, self.per_group, self.steps, generator)
        view = torch.randint(self.views, index.shape, generator=generator)
        self.plan = (index * self.views + view).to(self.rows.device)
        rate = exponential_lr(epoch, self.epochs, self.lr, self.final_lr)
        for group in self._adam().param_groups:
            group["lr"] = rate
        return rate

    def step(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        """One step on per_group images of each group; returns the mean squared error alone."""
        rows = self.plan[step]
        h = self.rows[rows]
        model = self.model
        z_id = model.f_emb(h) if self.z_id is None else self.z_id[rows]
        if self.z_nui is None:
            grouped = h.view(self.num_groups, self.per_group, -1)
            z_nui = model.f_nui.forward_grouped(grouped).flatten(0, 1)
        else:
            z_nui = self.z_nui[rows]
        penalty = None
        if self.bottleneck != OPEN:
            penalty = self.bottleneck.penalty(z_id, z_nui)
            generator = seeded(self.seed, self.name, "z_nui", epoch, step)
            z_nui = self.bottleneck.narrow(z_nui, generator)
        error = self.loss(model.reconstruct(z_id, z_nui), h)
        loss = error if penalty is None else error + penalty
        optimizer = self._adam()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"reconstruction": error.detach()}

    def _adam(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise RuntimeError("the phase has not been started")
        return self.optimizer

    def state_dict(self) -> dict[str, Any]:
        """Adam's state, and the best epoch so far if one is looked for."""
        watched = {} if self.watch is None else {"watch": self.watch.state_dict()}
        return {**self._adam().state_dict(), **watched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._adam().load_state_dict({key: v for key, v in state.items() if key != "watch"})
        if self.watch is not None and "watch" in state:
            self.watch.load_state_dict(state["watch"])

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step, by their place in the list."""
        images = torch.div(self.plan[step], self.views, rounding_mode="floor").tolist()
        return f"The batch's images (by number): {images}"
