"""What every subject is given: sizes, repeats, devices, the crops and a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from embae_plugin.lab.benchmark.drawn_crops import write_target
from embae_plugin.lab.benchmark.fresh import FreshProcess
from embae_plugin.lab.benchmark.machine import DEVICES, Rates, measure_rates, present_devices
from embae_plugin.lab.benchmark.measure import Row, not_measured
from embae_plugin.lab.benchmark.sizes import Sizes
from embae_plugin.training.train_step import has_fast_bf16


@dataclass
class Context:
    """The circumstances of one run of the command.

    Attributes:
        sizes: of the work.
        repeats: of each measurement.
        folder: a temporary one, for crops and checkpoints.
        stock: a process in which torchreid runs as its users run it.
        cython_dir: where torchreid's compiled evaluator lies; ``""`` looks in torchreid.
        devices: to be measured.
    """

    sizes: Sizes
    repeats: int
    folder: Path
    stock: FreshProcess
    cython_dir: str = ""
    devices: Sequence[str] = DEVICES
    rates: dict[str, Rates] = field(default_factory=dict)

    def rates_of(self, device: str) -> Rates:
        """What the device does at its best; measured when first asked for."""
        if device not in self.rates:
            self.measure_rates(device)
        return self.rates[device]

    def measure_rates(self, device: str) -> None:
        """Measures the device again and keeps the better of what was found so far."""
        found = measure_rates(device, has_fast_bf16(torch.device(device)))
        self.rates[device] = found.best(self.rates.get(device, found))

    def on_each_device(
        self, subject: str, what: str, work: Callable[[str], list[Row]]
    ) -> list[Row]:
        """The rows of ``work(device)`` on each device, and one that says which isn't there."""
        rows: list[Row] = []
        for device in self.devices:
            if device not in present_devices():
                why = f"no GPU on this machine; on one, `embae benchmark --only {subject}` does it"
                rows.append(not_measured(subject, what, device, why))
            else:
                rows += work(device)
        return rows

    def crops(self, train: int, query: int, gallery: int) -> Path:
        """A root with a dataset in Market-1501's layout of so many images; made once."""
        root = self.folder / f"crops-{train}-{query}-{gallery}"
        if not root.is_dir():
            write_target(root, train, query, gallery)
        return root
