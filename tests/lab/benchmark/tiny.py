"""A measurement small enough for a test: what it says means nothing, but all of it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embae_plugin.lab.benchmark.context import Context, Sizes
from embae_plugin.lab.benchmark.machine import Rates

TINY = Sizes(
    "tiny", repeats=1, query=12, gallery=150, dim=8, large_galleries=(200, 400), stock_query=4,
    trunk="mobilenetv1_x0_25", height=32, width=16, train_steps=1, extract_images=16, ae_steps=2,
    trunk_steps=1, target=(108, 6, 30),
)


class SameProcess:
    """Stands in for ``FreshProcess`` where starting one would take longer than the test."""

    def __enter__(self) -> SameProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """``work(*args)``, here."""
        return work(*args)


def tiny_context(folder: Path) -> Context:
    """A context whose machine does a billion operations, and copies a billion bytes, a second."""
    rates = {"cpu": Rates(flops=1e9, flops_bf16=0.0, bytes=1e9)}
    return Context(TINY, 1, folder, SameProcess(), rates=rates)  # type: ignore[arg-type]
