"""The measurements behind docs/scaling.md.

  python tools/scaling.py clusters                     clusters of 10 to 100 thousand crops
  python tools/scaling.py ranking                      three galleries, and a line to 10 million
  torchrun --nproc_per_node=2 tools/scaling.py step    a step of stage 1, and its all-reduce
  torchrun --nproc_per_node=2 tools/scaling.py adapt   a step of clusters-trunk, shared out
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
from embae_plugin.data.augment import Augmentation
from embae_plugin.lab.benchmark.machine import FreshProcess, peak_of
from embae_plugin.lab.benchmark.ranking_speed import probe
from embae_plugin.losses import BatchHardTripletLoss
from embae_plugin.methods.embedding import paper_adam
from embae_plugin.models.camera_norm import camera_layers
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from embae_plugin.runtime import tune_allocator
from embae_plugin.training.shared_batch import Share, send_statistics, together
from embae_plugin.training.train_step import EagerStep

QUERIES, DIM, WANTED = 3368, 128, 10_000_000
CAMERAS = 9  # of a batch of 72 crops, see embae_plugin/data/few_cameras.py
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


def median(work: Callable[[], object], steps: int) -> tuple[float, float]:
    """Median seconds of a step, by the clock and of this process's own work; one goes before."""
    seconds, worked = [], []
    for _ in range(steps + 1):
        begun, own = time.perf_counter(), time.process_time()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
        worked.append(time.process_time() - own)
    return statistics.median(seconds[1:]), statistics.median(worked[1:])


def adapt_step(batch_size: int, steps: int) -> None:
    """A step of clusters-trunk on noise of nine cameras, shared out; and what is sent in it."""
    gpu = torch.cuda.is_available()
    with distributed.processes(gpu):
        device = torch.device("cuda" if gpu else "cpu")
        model = EmbAE(build_trunk("mobilenetv1"))
        model.learn_cameras("trunk", [str(n) for n in range(CAMERAS)])
        model.to(device, memory_format=torch.channels_last).train()
        images = torch.randint(256, (batch_size, 256, 128, 3), dtype=torch.uint8, device=device)
        cameras = torch.arange(batch_size) * CAMERAS // batch_size
        labels = torch.randint(500, (batch_size,), device=device)
        centres = F.normalize(torch.randn(500, model.trunk.feature_dim, device=device), dim=1)
        augment = Augmentation(("random_flip", "random_erase"), (0.5,) * 3, (0.25,) * 3)
        generator, parameters = torch.Generator(), list(model.trunk.parameters())
        adam, layers = torch.optim.Adam(parameters, 3e-4, fused=True), camera_layers(model.trunk)
        share = Share(batch_size, cameras)

        def send() -> None:
            with together([], parameters):
                pass
            send_statistics(layers, share.of(cameras).tolist(), cameras.tolist())

        def work() -> None:
            mine = share.of(augment(images, generator))
            with together([model.trunk], parameters):
                with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                    z = F.normalize(model.network_features(mine, share.of(cameras)), dim=1)
                adam.zero_grad(set_to_none=True)
                F.cross_entropy(share.gather(z) @ centres.T / 0.05, labels).backward()
            adam.step()
            send_statistics(layers, share.of(cameras).tolist(), cameras.tolist())

        whole, own = median(work, steps)
        sent, _ = median(send, steps)
        alike, _ = median(lambda: augment(images, generator), steps)
        sys.stdout.write(
            f"rank {distributed.rank()} of {distributed.size()}, {device}, "
            f"{torch.get_num_threads()} thread(s), {len(share.mine)} of {batch_size} crops of "
            f"{CAMERAS} cameras: a step {whole:.3f} s, {own:.3f} s of them this process's own "
            f"work; {sent:.4f} s to send, {alike:.3f} s to augment the batch\n"
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

        whole, _ = median(lambda: eager.compute(images, pids), steps)
        none = torch.zeros((), device=device)
        sent, _ = median(lambda: distributed.average(model, none), steps)
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
    parser.add_argument("what", choices=("clusters", "ranking", "step", "adapt"))
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
    elif arguments.what == "adapt":
        adapt_step(arguments.batch_size, arguments.steps)
    else:
        step(arguments.batch_size, arguments.steps)


if __name__ == "__main__":
    main()
