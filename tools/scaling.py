"""The measurements behind docs/scaling.md.

  python tools/scaling.py ranking                      three galleries, and a line to 10 million
  torchrun --nproc_per_node=2 tools/scaling.py step    a step of stage 1, and its all-reduce
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch

from embae_plugin import distributed
from embae_plugin.lab.benchmark.machine import FreshProcess
from embae_plugin.lab.benchmark.ranking_speed import probe
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding import paper_adam
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from embae_plugin.training.train_step import EagerStep

QUERIES, DIM, WANTED = 3368, 128, 10_000_000


def ranking(galleries: list[int]) -> None:
    """Seconds and peak memory of each gallery, and a straight line through both."""
    times, peaks = [], []
    for gallery in galleries:
        with FreshProcess() as process:
            runs, before, peak = process.call(probe, True, QUERIES, gallery, DIM, 2)
        times.append(min(runs))
        peaks.append(peak)
        sys.stdout.write(
            f"{gallery:>9,} images: {min(runs):6.2f} s, {peak:,.0f} MB ({before:,.0f} before)\n"
        )
    for name, values, unit in (("time", times, "s"), ("peak", peaks, "MB")):
        slope, intercept = np.polyfit(galleries, values, 1)
        miss = max(abs(np.polyval((slope, intercept), galleries) - values) / values)
        at = np.polyval((slope, intercept), WANTED)
        sys.stdout.write(
            f"{name}: {intercept:.2f} {unit} + {1e6 * slope:.2f} {unit} per million, off by "
            f"{miss:.1%} at most; {WANTED:,} images: {at:,.0f} {unit}\n"
        )


def step(batch_size: int, steps: int) -> None:
    """Median seconds of a stage 1 step on noise, and of what is sent in it."""
    gpu = torch.cuda.is_available()
    with distributed.processes(gpu):
        device = torch.device("cuda" if gpu else "cpu")
        model = EmbAE(build_trunk("mobilenetv1")).to(device, memory_format=torch.channels_last)
        model.train()
        images = torch.randn(batch_size, 3, 256, 128, device=device)
        images = images.to(memory_format=torch.channels_last)
        pids = torch.arange(batch_size // 4, device=device).repeat_interleave(4)
        loss, adam = BatchHardTripletLoss("soft"), paper_adam(model.parameters(), 1e-4, device)
        eager = EagerStep(model, loss, adam, bf16=gpu)

        def median(work) -> float:
            seconds = []
            for _ in range(steps + 1):
                begun = time.perf_counter()
                work()
                if gpu:
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - begun)
            return statistics.median(seconds[1:])

        whole = median(lambda: eager.compute(images, pids))
        sent = median(lambda: distributed.average(model, torch.zeros((), device=device)))
        parameters = [p for p in model.parameters() if p.grad is not None]
        size = 4 * sum(p.numel() for p in parameters) / 1e6
        if distributed.rank() == 0:
            sys.stdout.write(
                f"{distributed.size()} process(es), {device}, {torch.get_num_threads()} thread(s) "
                f"each, batch {batch_size} each: a step {whole:.3f} s, of it {sent:.4f} s to "
                f"average {size:.1f} MB of gradients\n"
            )


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ranking", "step"))
    parser.add_argument("--galleries", type=int, nargs="+", default=[100_000, 250_000, 500_000])
    parser.add_argument("--batch-size", type=int, default=72)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "ranking":
        ranking(arguments.galleries)
    else:
        step(arguments.batch_size, arguments.steps)


if __name__ == "__main__":
    main()
