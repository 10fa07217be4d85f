"""What every subject is given: sizes, repeats, the crops and a process of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from embae_plugin.lab.benchmark.drawn_crops import write_target
from embae_plugin.lab.benchmark.fresh import FreshProcess
from embae_plugin.lab.benchmark.machine import Rates, measure_rates
from embae_plugin.training.train_step import has_fast_bf16


@dataclass(frozen=True)
class Sizes:
    """How large each subject's work is."""

    name: str
    repeats: int  # of every measurement, unless the command says otherwise
    query: int  # images in the ranking
    gallery: int
    dim: int
    large_galleries: tuple[int, ...]  # images in those that growth is measured on
    stock_query: int  # that torchreid is given with these: its matrices of all would not fit
    trunk: str
    height: int
    width: int
    train_steps: int  # timed steps of stage 1; one before them is not
    extract_images: int
    ae_steps: int  # timed steps of stages 2 and 3 with features cached
    trunk_steps: int  # and recomputed
    target: tuple[int, int, int]  # images in training, query and gallery (end to end)


FULL = Sizes("full", 3, 3368, 15_913, 128, (100_000, 500_000), 337, "mobilenetv1", 256, 128, 6,
             1200, 40, 4, (12_936, 3368, 15_913))
QUICK = Sizes("quick", 2, 128, 15_913, 128, (20_000, 100_000), 16, "mobilenetv1", 128, 64, 2,
              600, 8, 1, (500, 100, 500))


@dataclass
class Context:
    """The circumstances of one run of the command."""

    sizes: Sizes
    repeats: int  # of each measurement
    folder: Path  # a temporary one, for crops and checkpoints
    stock: FreshProcess  # in which torchreid runs as its users run it
    cython_dir: str = ""  # where torchreid's compiled evaluator lies; "": in torchreid
    rates: dict[str, Rates] = field(default_factory=dict)  # of each device, once measured

    def measure_rates(self, device: str) -> None:
        """Measures the device again and keeps the better of what was found so far."""
        found = measure_rates(device, has_fast_bf16(torch.device(device)))
        self.rates[device] = found.best(self.rates.get(device, found))

    def crops(self, train: int, query: int, gallery: int) -> Path:
        """A root with a dataset in Market-1501's layout of so many images; made once."""
        root = self.folder / f"crops-{train}-{query}-{gallery}"
        if not root.is_dir():
            write_target(root, train, query, gallery)
        return root
