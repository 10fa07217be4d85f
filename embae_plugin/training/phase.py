"""What a stage is made of: phases, and the one way in which an optimised phase works.

A method subclasses :class:`OptimisedPhase` and says which parts learn, which images each batch
holds and what the loss of a batch is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from embae_plugin.training.schedule import exponential_lr, seeded
from embae_plugin.training.shared_batch import Share, together

if TYPE_CHECKING:
    from embae_plugin.training.stage_engine import StageEngine

Values = dict[str, torch.Tensor]


class EndOfPhase(Exception):
    """Raised by :meth:`Phase.start_epoch` where there is nothing more to learn in this phase."""


class Phase(Protocol):
    """``epochs`` epochs of ``steps`` steps, usually of one optimiser."""

    name: str
    epochs: int
    steps: int

    @property
    def images(self) -> int:
        """Of a step, of all processes; 0 where that is not counted."""

    def start(self) -> None:
        """Called once, when this phase begins or is resumed."""

    def start_epoch(self, epoch: int) -> float:
        """Sets up an epoch and returns its learning rate."""

    def step(self, epoch: int, step: int) -> Values:
        """One optimisation step; returns detached scalars to log, the first being the loss."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the model."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""

    def describe(self, epoch: int, step: int) -> str:
        """What the step was about, for an error message (the images in the batch)."""


class OneStep:
    """A phase of a single step that learns nothing and so has no state; :meth:`work` does it."""

    name, epochs, steps, images = "statistics", 1, 1, 0

    def work(self) -> None:
        """What the phase is for."""
        raise NotImplementedError

    def start(self) -> None:
        """Prepares nothing."""

    def start_epoch(self, epoch: int) -> float:
        """Returns 0: there is no learning rate."""
        return 0.0

    def step(self, epoch: int, step: int) -> Values:
        """Does the work; the loss is 0."""
        self.work()
        return {"loss": torch.zeros(())}

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Reads nothing."""

    def describe(self, epoch: int, step: int) -> str:
        """Returns nothing: there is no loss that could fail."""
        return ""


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        rows: (B,) their numbers.
        generator: of all that is drawn for this step.
        step: number of the step in its epoch.
    """

    rows: torch.Tensor
    generator: torch.Generator
    step: int


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group's rate, in place where it is a tensor (a captured graph reads that)."""
    for group in optimizer.param_groups:
        scaled = lr * group.get("lr_mult", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


class OptimisedPhase:
    """One optimiser's work on parts of a model; everything else of it stays as it is.

    Of several processes each does the same, unless :attr:`shared`: then :meth:`loss` sends what
    :meth:`share` gives this rank through the network, and gathers what all have made of theirs.

    Args:
        engine: whose model, seed and settings are used.
        name: of the phase, in logs and checkpoints.
        epochs: passes over the plan that :meth:`batches` draws for each.
        paths: (N,) files of the images, for error messages.
    """

    steps = 1
    lr, final_lr, constant_epochs = 1e-3, 0.0, 0  # final_lr 0: the rate is constant
    shared = False  # on cached features a step takes less than sending its gradients

    def __init__(
        self, engine: StageEngine, name: str, epochs: int, paths: Sequence[str] = ()
    ) -> None:
        self.engine, self.name, self.epochs, self.paths = engine, name, epochs, paths
        self.learned: list[nn.Module] = []
        self.optimizer: torch.optim.Optimizer
        self.report: dict[str, float] = {}  # constants to log beside the loss
        self.plan = torch.zeros(0, dtype=torch.long)

    @property
    def images(self) -> int:
        """How many of a step."""
        return self.plan.shape[1] if self.plan.ndim == 2 else 0

    def parts(self) -> list[nn.Module]:
        """The modules that learn."""
        raise NotImplementedError

    def batches(self, epoch: int) -> torch.Tensor:
        """(steps, B) numbers of the images of each step of an epoch."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Values:
        """The loss of a batch, first, with its graph; and more scalars to log."""
        raise NotImplementedError

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, unless a method overrides it."""
        return torch.optim.Adam(parameters, lr=self.lr, fused=True)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides model and optimiser."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""

    def after_step(self, batch: Batch) -> None:
        """Called when a batch has been learned from."""

    def share(self, count: int, groups: torch.Tensor | None = None) -> Share:
        """Which of a batch's rows are this rank's, see :class:`Share`."""
        return Share(count, groups, alone=not self.shared)

    def generator(self, epoch: int, step: int) -> torch.Generator:
        """Of what a step draws; it depends on where the run is alone."""
        return seeded(self.engine.seed, self.engine.stage, self.name, epoch, step)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        if not self.final_lr:
            return self.lr
        return exponential_lr(epoch, self.epochs, self.lr, self.final_lr, self.constant_epochs)

    def start(self) -> None:
        """Freezes what does not learn and makes the optimiser."""
        self.engine.model.eval().requires_grad_(False)
        self.learned = self.parts()
        for part in self.learned:
            part.requires_grad_(True)
        parameters = [p for part in self.learned for p in part.parameters()]
        self.optimizer = self.make_optimizer(parameters)

    def start_epoch(self, epoch: int) -> float:
        """Draws the epoch's batches and sets its learning rate, which it returns."""
        self.plan = self.batches(epoch)
        rate = self.rate(epoch)
        set_lr(self.optimizer, rate)
        for part in self.learned:
            part.train()
        return rate

    def step(self, epoch: int, step: int) -> Values:
        """Learns from one batch; returns the loss and what else is logged."""
        batch = Batch(self.plan[step], self.generator(epoch, step), step)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        with together(self.learned, parameters, alone=not self.shared):
            values = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss = next(iter(values.values()))
            if loss.requires_grad:  # it does not where this rank has no row of the batch
                loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.after_step(batch)
        constants = {name: torch.tensor(v, dtype=torch.double) for name, v in self.report.items()}
        return {**{name: value.detach() for name, value in values.items()}, **constants}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, what is logged, and :meth:`state`."""
        return {"optimizer": self.optimizer.state_dict(), "report": dict(self.report),
                **self.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.report = state["report"]

    def describe(self, epoch: int, step: int) -> str:
        """The images of a step."""
        return f"The batch's images: {', '.join(self.paths[i] for i in self.plan[step].tolist())}"
