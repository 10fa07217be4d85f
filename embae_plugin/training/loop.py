"""The training loop that every stage shares: resume, save, stop cleanly, log.

A stage is a list of phases; a phase says how one step is done and nothing else. Its random
choices depend on (seed, phase, epoch, step) alone, so weights, optimiser and position are all
that a checkpoint needs for a stopped run to end with the same bits as one that never stopped.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from embae_plugin import distributed
from embae_plugin.atomic_file import remove_drafts
from embae_plugin.progress import Progress, finite
from embae_plugin.training.phase import EndOfPhase, Phase
from embae_plugin.training.run_identity import check_identity, load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

# Settings of a run, named so that a refusal to go on from it can be understood.
FILES = "image files (names, sizes, labels)"
PROCESSES = "processes (torchrun's --nproc_per_node × --nnodes)"
# What earlier releases compared, and what says the same, or more, has another name now.
RETIRED = {
    "images", "target", "target images", "loss", "sources", "split_id",
    "train.optim", "train.lr", "train.weight_decay", "train.lr_scheduler", "train.gamma",
    "train.stepsize", "constant_epochs", "z_nui noise", "z_nui dropout", "z_nui variational",
    "z_nui decorrelation",
}


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, has saved itself, and can be started again."""


@dataclass
class LoopOptions:
    """How a loop is run.

    Attributes:
        checkpoint: where the stage's state is kept; None keeps none.
        identity: settings that a resumed run must share.
        defaults: what a setting was in effect before a release that first wrote it down.
        save_interval: seconds between checkpoints, within epochs and after them, or more where
            writing takes long; 0 saves after every epoch.
        writer: a TensorBoard writer, or None.
        after_epoch: called with (phase name, epochs done in it, logged values).
        extra: further entries of the checkpoint.
    """

    checkpoint: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    save_interval: float = 30.0
    writer: Any = None
    after_epoch: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def catch_signals() -> Iterator[threading.Event]:
    """Turns Ctrl-C and SIGTERM into an event, so that a step is finished before stopping."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Loop:
    """Runs the phases of one stage on one model."""

    def __init__(
        self, stage: str, model: nn.Module, phases: Sequence[Phase], options: LoopOptions
    ) -> None:
        self.stage, self.model, self.phases, self.options = stage, model, list(phases), options
        self.phase = self.epoch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._saved_at, self._pause = time.monotonic(), options.save_interval

    def _payload(self, done: bool) -> dict[str, Any]:
        running = not done and self.phase < len(self.phases)
        return {
            **self.options.extra,
            "stage": self.stage,
            "done": done,
            "identity": dict(self.options.identity),
            "position": [self.phase, self.epoch, self.step],
            "plan": [[phase.name, phase.epochs, phase.steps] for phase in self.phases],
            "sums": dict(self._sums),
            "history": list(self.history),
            "model": self.model.state_dict(),
            "optimizer": self.phases[self.phase].state_dict() if running else {},
        }

    def save(self, done: bool = False) -> None:
        """Writes the checkpoint, if one is kept; of several processes, the first does."""
        start = time.monotonic()
        if self.options.checkpoint is not None and distributed.rank() == 0:
            save_checkpoint(self.options.checkpoint, self._payload(done))
        self._saved_at = time.monotonic()
        self._pause = max(self.options.save_interval, 100 * (self._saved_at - start))

    def _due(self) -> bool:
        """Whether a checkpoint is to be written: at most a hundredth of the time goes there."""
        return time.monotonic() - self._saved_at >= self._pause

    def _settings_of(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint's run was made with, as far as it matters for going on from it."""
        now = self.options.identity
        then = {k: v for k, v in payload["identity"].items() if k in now or k not in RETIRED}
        for key, value in now.items():
            then.setdefault(key, 1 if key == PROCESSES else self.options.defaults.get(key, value))
        if PROCESSES in now and payload["done"]:  # what several have finished, one may go on from
            then[PROCESSES] = now[PROCESSES]
        return then

    def _resume(self) -> bool:
        """Takes up an earlier run's state; returns whether that run was complete."""
        path = self.options.checkpoint
        if path is not None and distributed.rank() == 0:
            remove_drafts(path)
        if path is None or not path.is_file():
            return False
        try:
            payload = load_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}. Remove it to begin stage {self.stage} again; what other "
                             "stages have finished is kept") from None  # fmt: skip
        check_identity(path, self._settings_of(payload), self.options.identity)
        self.model.load_state_dict(payload["model"])
        self.history, self._sums = payload["history"], payload["sums"]
        self.phase, self.epoch, self.step = payload["position"]
        if payload["done"]:
            logger.info("%s: done before, read from %s", self.stage, path)
            return True
        phase = self.phases[self.phase]
        phase.start()
        phase.load_state_dict(payload["optimizer"])
        logger.info("%s: going on from %s (%s, epoch %d of %d, step %d of %d)", self.stage, path,
                    phase.name, self.epoch + 1, phase.epochs, self.step, phase.steps)  # fmt: skip
        return False

    def run(self) -> list[dict[str, Any]]:
        """Runs what is left; returns a row of averages for each epoch.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the step is finished and saved.
            FloatingPointError: the loss is no longer finite; the last checkpoint is good.
            PeerLost: another process of the run has ended; the last checkpoint is good.
        """
        try:
            return self._run()
        except distributed.PeerLost as error:
            raise distributed.PeerLost(f"{error}.{self._kept()}") from error

    def _kept(self) -> str:
        where = self.options.checkpoint
        if where is None:
            return ""
        if not where.is_file():
            return f" {where} was not yet there: the same command begins this stage again."
        return f" The last good state is {where}; the same command goes on from there."

    def _run(self) -> list[dict[str, Any]]:
        done_before = self._resume()
        start = [done_before, self.phase, self.epoch, self.step]
        distributed.check_same(f"{self.stage}: done, phase, epoch, step at the start", start)
        for key, value in self.options.identity.items():
            distributed.check_same(f"{self.stage}: {key}", value)
        if done_before:
            return self.history
        total = sum(phase.epochs * phase.steps for phase in self.phases)
        done = sum(phase.epochs * phase.steps for phase in self.phases[: self.phase])
        if self.phase < len(self.phases):
            done += self.epoch * self.phases[self.phase].steps + self.step
        if self.phases and (self.phase, self.epoch, self.step) == (0, 0, 0):
            self.phases[0].start()  # may decode images for long; Ctrl-C ends that at once
        with (
            catch_signals() as stop,
            Progress(self.stage, total, "step", done, leave=True) as bar,
        ):
            while self.phase < len(self.phases):
                phase = self.phases[self.phase]
                if self.phase and (self.epoch, self.step) == (0, 0):
                    phase.start()
                try:
                    while self.epoch < phase.epochs:
                        self._run_epoch(phase, stop, bar)
                except EndOfPhase as why:
                    logger.warning("%s, %s: ends after epoch %d of %d: %s", self.stage, phase.name,
                                   self.epoch, phase.epochs, why)
                self.phase, self.epoch = self.phase + 1, 0
        self.save(done=True)
        return self.history

    def _run_epoch(self, phase: Phase, stop: threading.Event, bar: Progress) -> None:
        self._tell(bar, phase, {})
        lr = phase.start_epoch(self.epoch)
        bar.update(0, sum(phase.epochs * phase.steps for phase in self.phases))  # better known now
        sums: dict[str, Any] = dict(self._sums)
        first, begun = self.step, time.monotonic()
        while self.step < phase.steps:
            values = phase.step(self.epoch, self.step)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            if bar.due():  # not oftener: reading the loss waits for a GPU
                taken = max(time.monotonic() - begun, 1e-9)
                speed = (self.step - first) * phase.images / taken
                self._tell(bar, phase, {n: float(v) for n, v in values.items()}, speed)
            bar.update()
            stopping = distributed.any_rank(stop.is_set())
            if self.step % 50 == 0:
                self._check_finite(phase, sums)
            within = self.step < phase.steps and self.options.save_interval > 0
            if stopping or (within and self._due()):
                self._check_finite(phase, sums)
                self._sums = {name: float(value) for name, value in sums.items()}
                self.save()
            if stopping:
                distributed.barrier()  # the first that ends ends the others
                where = self.options.checkpoint
                kept = f"; the state is in {where}: the same command goes on from there"
                raise Interrupted(f"{self.stage} stopped{kept if where else ''}")
        self._check_finite(phase, sums)
        row = {name: float(value) / phase.steps for name, value in sums.items()}
        self._finish_epoch(phase, row, lr)

    def _tell(
        self, bar: Progress, phase: Phase, values: Mapping[str, float], speed: float = 0.0
    ) -> None:
        """What the bar says beside the steps of the whole stage."""
        words = [phase.name, f"epoch {self.epoch + 1} of {phase.epochs}",
                 f"step {self.step} of {phase.steps}"]
        words += [f"{name} {value:.4g}" for name, value in values.items()]
        words += [f"{speed:.3g} images/s"] if speed else []
        bar.tell(", ".join(words), {
            **{name: finite(value) for name, value in values.items()}, "phase": phase.name,
            "epoch": self.epoch + 1, "epochs": phase.epochs, "step": self.step,
            "steps": phase.steps, "images_per_second": round(speed, 1) if speed else None,
        })

    def _finish_epoch(self, phase: Phase, row: dict[str, Any], lr: float) -> None:
        self.step, self._sums = 0, {}
        self.epoch += 1
        row = {"phase": phase.name, "epoch": self.epoch, "lr": lr, **row}
        logger.debug("%s %s", self.stage, row)
        if self.options.after_epoch is not None:
            row.update(self.options.after_epoch(phase.name, self.epoch) or {})
        self.history.append(row)
        if self.options.writer is not None:
            for name, value in row.items():
                if name not in ("phase", "epoch"):
                    tag = f"{self.stage}/{phase.name}/{name}"
                    self.options.writer.add_scalar(tag, value, self.epoch)
        due = self.options.save_interval == 0 or self._due()
        if due and self.epoch < phase.epochs:  # the last epoch's state is saved by what follows
            self.save()

    def _check_finite(self, phase: Phase, sums: Mapping[str, Any]) -> None:
        for name, value in sums.items():
            if not math.isfinite(float(value)):
                raise FloatingPointError(
                    f"{self.stage}: {name} is {float(value)} in phase {phase.name}, epoch "
                    f"{self.epoch + 1}, at or before step {self.step}.{self._kept()} A smaller "
                    f"learning rate often helps. {phase.describe(self.epoch, self.step - 1)}"
                )
