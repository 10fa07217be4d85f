"""Sixteen callers at once on one model: right answers, flat memory, and how fast it is.

  python tools/load.py                                         100,000 calls of a tiny network
  python tools/load.py --checkpoint adapted --crops crops --calls 1000 --speed 1000
  python tools/load.py --processes 2 --calls 20000 --speed 0   each opens the same file

A call has 1 to 40 crops (evenly by the logarithm), mostly of its thread's camera; some must be
refused, or are left alone by a caller that waits a millisecond. Each answer is compared with that
of a copy of the model that knows one camera alone, by torch from torchvision's pixels, beforehand.
Memory's slope is that of a line through the second half. Speeds are of calls without mistakes, one
way to call after the other, three times; torchreid's extractor gets one camera's weights.
"""

import argparse
import multiprocessing
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from load_world import KINDS, MOST, POOL, TOLERANCE, World

THREADS, LARGE, TURNS = 16, 256, 3


def in_threads(count: int, work: Callable[[int], None]) -> tuple[float, float]:
    """Runs ``work(number)`` in threads; seconds, and seconds of processors."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    begun, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, time.process_time() - cpu


def in_ms(took: list[float] | np.ndarray) -> str:
    """Latencies in words."""
    return "p50 {:.1f} ms, p99 {:.1f} ms".format(*np.percentile(took, (50, 99)) * 1e3)


def load(world: World, calls: int, seed: int = 0) -> tuple[str, list[str]]:
    """``calls`` calls by all threads; figures in words, and what went wrong."""
    each, wrong, done, memory = -(-calls // THREADS), [], [0] * THREADS, psutil.Process()
    took, samples = np.ones((THREADS, each)), []  # reserved beforehand, as memory is watched

    def call(*given: object) -> None:
        if said := world.call(*given):
            wrong.append(said)

    def worker(number: int) -> None:
        draw, home = random.Random(f"{seed} {number}"), number % len(world.names)
        for n in range(each):
            kind, begun = draw.choices(list(KINDS), KINDS.values())[0], time.perf_counter()
            thread = threading.Thread(target=call, args=(random.Random(draw.random()), home, kind))
            if kind == "left":
                thread.start()
                thread.join(1e-3)
            else:
                thread.run()
            took[number, n], done[number] = time.perf_counter() - begun, n + 1
            if not number and n % max(1, each // 1000) == 0:
                samples.append((sum(done), memory.memory_info().rss))
            with suppress(ZeroDivisionError):
                1 / (n % 50)  # a mistake of the caller's own, between calls

    wall, cpu = in_threads(THREADS, worker)
    half = np.array([one for one in samples if one[0] >= sum(done) / 2] or samples)
    mb, own = half[:, 1] / 1e6, memory.memory_full_info().uss / 1e6
    slope = np.polyfit(*half.T, 1)[0]
    return (f"{sum(done)} calls in {wall:.0f} s ({cpu:.0f} s of processors), {len(wrong)} wrong; "
            f"{in_ms(took)}; {mb[0]:.1f} MB at half, {mb[-1]:.1f} MB at the end ({own:.1f} MB "
            f"shared with no process), slope {slope:.1f} bytes a call"), wrong


def speeds(world: World, count: int) -> list[str]:
    """Ways to call in words, each with the same number of crops, in calls without mistakes."""
    ways = {f"EmbAE, one caller, {LARGE} crops a call": (True, 1, LARGE),
            f"EmbAE, {THREADS} callers": (True, THREADS, 0), "EmbAE, one caller": (True, 1, 0),
            f"torchreid, {THREADS} callers": (False, THREADS, 0),
            "torchreid, one caller": (False, 1, 0)}
    found = {way: ([], [], []) for way in ways}
    for turn in range(TURNS):
        for way, (ours, callers, size) in ways.items():
            draw, work, crops, took = random.Random(turn), queue.SimpleQueue(), 0, found[way][2]
            while crops < count:
                rows = draw.choices(range(POOL), k=size or round(MOST ** draw.random()))
                work.put([world.crops[row] for row in rows])
                crops += len(rows)

            def caller(number: int, ours=ours, work=work, took=took) -> None:
                named = {"camera": world.names[number % len(world.names)]} if ours else {}
                with suppress(queue.Empty):
                    while images := work.get_nowait():
                        begun = time.perf_counter()
                        (world.ours if ours else world.theirs)(images, **named)
                        took.append(time.perf_counter() - begun)

            wall, cpu = in_threads(callers, caller)
            found[way][0].append(crops / wall)
            found[way][1].append(cpu / crops * 1e3)
    large, small = (np.array(rates) for rates, *_ in list(found.values())[:2])
    return [f"{way}: {np.median(rate):.0f} crops/s, {np.median(cpu):.2f} ms of a processor each, "
            f"{in_ms(took)}" for way, (rate, cpu, took) in found.items()] + [
            f"callers against one of large batches: {np.median(small / large):.2f}"]


def run(arguments: argparse.Namespace, seed: int) -> tuple[list[str], list[str]]:
    """What one process does: lines of figures, and what went wrong."""
    with tempfile.TemporaryDirectory() as place:
        world = World(arguments.checkpoint, arguments.crops, Path(place))
        line, wrong = load(world, arguments.calls, seed)
        lines = [f"torch threads: {torch.get_num_threads()}; two cameras' answers differ by "
                 f"{world.apart:.2g} or more, of which {TOLERANCE} are allowed", line]
        return lines + (speeds(world, arguments.speed) if arguments.speed else []), wrong


def main(given: list[str] | None = None) -> int:
    """Runs what the command line says; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="", help="of embae adapt; default: a tiny network")
    parser.add_argument("--crops", default="", help="folder of images; default: noise")
    parser.add_argument("--calls", type=int, default=100_000, help="of each process")
    parser.add_argument("--speed", type=int, default=10_000, help="crops for each speed; 0: none")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args(given)
    jobs = [(arguments, seed) for seed in range(arguments.processes)]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        results = pool.starmap(run, jobs)
    for lines, wrong in results:
        sys.stdout.write("\n".join([*lines, *wrong[:10]]) + "\n")
    return int(any(wrong for _, wrong in results))


if __name__ == "__main__":
    sys.exit(main())
