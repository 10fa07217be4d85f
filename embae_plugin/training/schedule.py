"""Learning rates and seeds as functions of where a run is, so that nothing needs remembering."""

from __future__ import annotations

import hashlib

import torch


def exponential_lr(
    epoch: int, max_epoch: int, lr: float, final_lr: float, constant_epochs: int = 0
) -> float:
    """``lr`` for ``constant_epochs``, then exponential decay that reaches ``final_lr`` at the end.

    With lr 1e-4, final_lr 1e-7, constant_epochs 100 and max_epoch 400 this is the paper's
    schedule (3.3).

    Args:
        epoch: 0-based; the last one is ``max_epoch − 1``.
    """
    span = max_epoch - 1 - constant_epochs
    if epoch < constant_epochs or span <= 0:
        return lr
    return float(lr * (final_lr / lr) ** ((epoch - constant_epochs) / span))


def seeded(*names: object) -> torch.Generator:
    """A CPU generator that depends on ``names`` alone, for example (seed, "embedding", epoch).

    Every random choice of a run is drawn from one of these, so a run that is stopped and started
    again draws what it would have drawn.
    """
    digest = hashlib.sha256(repr(names).encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator
