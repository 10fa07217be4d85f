"""Exact float32 where numbers are compared or kept, whatever the process has switched on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch


def _switches() -> list[tuple[Any, str, Any]]:
    """What lets a library round float32 operands: (object, name, its exact setting)."""
    products = [getattr(b, "matmul", None) for b in (torch.backends.cuda, torch.backends.mkldnn)]
    layers = [getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")]
    new: list[tuple[Any, str, Any]]
    new = [(s, "fp32_precision", "ieee") for s in layers if hasattr(s, "fp32_precision")]
    if not new:  # torch before 2.9; convolutions round to TF32 there unless told otherwise
        new = [(torch.backends.cudnn, "allow_tf32", False)]
    # What set_float32_matmul_precision has changed is put back under these names, too.
    return new + [(s, "fp32_precision", "") for s in products if hasattr(s, "fp32_precision")]


class _Held:
    """The process's switches while at least one thread needs them exact."""

    def __init__(self) -> None:
        self.lock, self.users, self.restored = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            switches = _switches()
            for owner, name, _ in reversed(switches):
                self.restored.callback(setattr, owner, name, getattr(owner, name))
            with suppress(RuntimeError):  # set through the newer names only, which are restored
                overall = torch.get_float32_matmul_precision()
                self.restored.callback(torch.set_float32_matmul_precision, overall)
            torch.set_float32_matmul_precision("highest")
            for owner, name, exact in switches:
                if exact != "":
                    setattr(owner, name, exact)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.restored.close()  # the newer names last


_held = _Held()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keeps TF32, bfloat16 and autocast out of the products and convolutions inside.

    On a GPU cuDNN's convolutions round their operands to 10 bits by default, which moves features
    by up to a hundredth: other numbers than a processor's, and than those of the same network
    with its batch norm folded. The switches are the process's: other threads compute exactly, too,
    until the last block ends.
    """
    with _held, torch.autocast(device.type, enabled=False):
        yield
