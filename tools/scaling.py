"""The measurements behind docs/scaling.md.

  python tools/scaling.py clusters                     clusters of 10 to 100 thousand crops
  python tools/scaling.py ranking                      three galleries, and a line to 10 million
  torchrun --nproc_per_node=2 tools/scaling.py step    a step of stage 1, and its all-reduce
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score

from embae_plugin import distributed
from embae_plugin.clustering.jaccard import distances_of, neighbour_weights
from embae_plugin.clustering.neighbours import SEARCHES, nearest
from embae_plugin.clustering.pseudo_labels import dbscan, without_camera_means
from embae_plugin.lab.benchmark.machine import FreshProcess, peak_of
from embae_plugin.lab.benchmark.ranking_speed import probe
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding import paper_adam
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from embae_plugin.runtime import tune_allocator
from embae_plugin.training.train_step import EagerStep

QUERIES, DIM, WANTED = 3368, 128, 10_000_000
WIDTH, EACH, CROPS = 512, 20, 1_000_000  # numbers of a crop, crops of a person, and those wanted


def people(count: int) -> torch.Tensor:
    """(count, WIDTH) crops of length 1, EACH of a person: at a cosine of about .53 to 1 to it."""
    draw = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(-(-count // EACH), WIDTH, generator=draw), dim=1)
    x = x.repeat_interleave(EACH, 0)[:count]
    noise = F.normalize(torch.randn(x.shape, generator=draw), dim=1)
    return F.normalize(x + 1.6 * torch.rand(count, 1, generator=draw) * noise, dim=1)


def cluster_parts(count: int, search: str) -> tuple[dict[str, tuple[float, float]], str, float]:
    """Seconds and processor seconds of each part of a clustering, what was found, and peak MB."""
    tune_allocator()
    spent: dict[str, tuple[float, float]] = {}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        begun, used = time.perf_counter(), time.process_time()
        result = work(*given)
        spent[name] = time.perf_counter() - begun, time.process_time() - used
        return result

    def cluster() -> np.ndarray:
        cameras = np.arange(count) % 6
        x = timed("camera means", without_camera_means, people(count), cameras)
        index = timed("neighbours", nearest, x, 31, search)
        weights = timed("weights", neighbour_weights, x, index, 30, 6)
        distances = timed("distances", distances_of, weights, 0.5 + 1e-6)
        return timed("DBSCAN", dbscan, distances, 0.5, 4)

    labels, _, peak = peak_of(cluster)
    person = np.arange(count) // EACH
    agreed = adjusted_rand_score(person, labels)
    return spent, f"{labels.max() + 1:,} clusters, adjusted Rand index {agreed:.3f}", peak


def clusters(sizes: list[int], search: str) -> None:
    """Each size in a process of its own; growth from the first to the last; a million by it."""
    table = []
    for count in sizes:
        with FreshProcess() as process:
            spent, found, peak = process.call(cluster_parts, count, search)
        table.append({name: used for name, (_, used) in spent.items()})
        parts = ", ".join(f"{name} {used:.1f}" for name, used in table[-1].items())
        took, used = (sum(column) for column in zip(*spent.values(), strict=True))
        sys.stdout.write(f"{count:>9,} crops: {took:.1f} s; of a processor {used:.1f} s: {parts}; "
                         f"{peak:,.0f} MB; {found}\n")
        sys.stdout.flush()
    for name in table[0] if len(table) > 1 else ():
        first, last = table[0][name], table[-1][name]
        power = np.log(last / first) / np.log(sizes[-1] / sizes[0])
        power = 2 if name == "neighbours" and search == "exact" else power
        sys.stdout.write(f"{name}, of a processor: N to the power of {power:.2f}; {CROPS:,} crops: "
                         f"{last * (CROPS / sizes[-1]) ** power:,.0f} s\n")


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
    parser.add_argument("what", choices=("clusters", "ranking", "step"))
    parser.add_argument("--crops", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--search", choices=SEARCHES, default="exact")
    parser.add_argument("--galleries", type=int, nargs="+", default=[100_000, 250_000, 500_000])
    parser.add_argument("--batch-size", type=int, default=72)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "clusters":
        clusters(arguments.crops, arguments.search)
    elif arguments.what == "ranking":
        ranking(arguments.galleries)
    else:
        step(arguments.batch_size, arguments.steps)


if __name__ == "__main__":
    main()
