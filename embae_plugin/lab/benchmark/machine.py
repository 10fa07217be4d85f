"""What the machine is, how fast it multiplies and copies, and a fresh process on it.

The rates are the floors that everything is held to. A fresh process has its peak of memory for
itself, and its C library is as users have it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import platform
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from embae_plugin import __version__
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.parallel import cpu_count
from embae_plugin.lab.benchmark.measure import seconds

P = ParamSpec("P")
T = TypeVar("T")
DEVICES = ("cpu", "cuda")
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices multiplied
_COPIED = {"cpu": 2**26, "cuda": 2**29}  # float32 elements: more than fits in a core's cache


class Rates(NamedTuple):
    """What a device does at its best in a second, measured."""

    flops: float  # float32 operations (multiplications and additions) of a matrix product
    flops_bf16: float  # the same in bfloat16; 0 where the hardware has none
    bytes: float  # read and written, in a copy of a large array

    def best(self, other: Rates) -> Rates:
        """The higher of each."""
        return Rates(*map(max, self, other))

    def operations(self, count: float, bf16: bool = False) -> float:
        """Seconds that so many operations take."""
        return count / (self.flops_bf16 if bf16 and self.flops_bf16 else self.flops)

    def traffic(self, count: float) -> float:
        """Seconds that so many bytes take."""
        return count / self.bytes

    def __str__(self) -> str:
        bf16 = f", {self.flops_bf16 / 1e9:,.0f} in bfloat16" if self.flops_bf16 else ""
        return (
            f"{self.flops / 1e9:,.0f} GFLOP/s in a float32 matrix product{bf16}; "
            f"{self.bytes / 1e9:,.1f} GB/s read and written in a copy"
        )


def operations_of(work: Callable[[], object]) -> int:
    """Multiplications and additions in the products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _matmul_flops(device: str, dtype: torch.dtype, runs: int) -> float:
    side = _SIDE[device]
    # no ones: a chip multiplies them faster than what anybody has to multiply
    a = torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    best = min(seconds(lambda: torch.mm(a, a, out=out), device) for _ in range(runs))
    return 2 * side**3 / best


def measure_rates(device: str, bf16: bool, runs: int = 4) -> Rates:
    """Measures a device, bfloat16 if asked for; the best of ``runs``, as a floor is no average."""
    source = torch.ones(_COPIED[device], device=device)
    copy = torch.empty_like(source)
    copy.copy_(source)
    best = min(seconds(lambda: copy.copy_(source), device) for _ in range(runs))
    return Rates(
        flops=_matmul_flops(device, torch.float32, runs),
        flops_bf16=_matmul_flops(device, torch.bfloat16, runs) if bf16 else 0.0,
        bytes=2 * source.numel() * source.element_size() / best,
    )


def present_devices() -> tuple[str, ...]:
    """Those of :data:`DEVICES` that this machine has."""
    return DEVICES if torch.cuda.is_available() else DEVICES[:1]


def describe() -> dict[str, str]:
    """The machine, the versions and the date, as lines of a report."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{processor}, {cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": f"embae {__version__}, torchreid {bridge.VERSION} ({bridge.LAYOUT}), "
        f"torch {torch.__version__}, numpy {np.__version__}",
        "load before the start": f"{psutil.getloadavg()[0]:.1f} (anything above 0 disturbs the "
        "timings)",
    }


def _start_others_by(method: str) -> None:
    multiprocessing.set_start_method(method, force=True)


class FreshProcess(ProcessPoolExecutor):
    """One process, started anew instead of forked, that does what it is given.

    Nothing of this process's heap is in it, and nothing here has told its allocator anything.
    What it is given must be a function of a module, with plain arguments.
    """

    def __init__(self) -> None:
        # A spawned process would spawn the workers of its data loaders, too: each would import
        # torch anew. Its users' processes fork them.
        method = multiprocessing.get_start_method()
        super().__init__(1, multiprocessing.get_context("spawn"), _start_others_by, (method,))

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work(*args, **kwargs)``, done over there.

        Raises:
            MemoryError: the process was killed, most likely for want of memory.
        """
        try:
            return self.submit(work, *args, **kwargs).result()
        except BrokenProcessPool:
            raise MemoryError(
                f"the process for {work.__name__} was killed, most likely for want of memory; a "
                "larger machine, or a smaller size, would do"
            ) from None


def peak_of(work: Callable[[], T]) -> tuple[T, float, float]:
    """Runs ``work``; returns its result, and MB in use before and at the peak.

    Where the peak cannot be set back (a container may forbid it), it includes what was before.
    """
    process, status = psutil.Process(), Path("/proc/self/status")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = process.memory_info().rss / 1e6
    result = work()
    memory = process.memory_info()
    # ru_maxrss would also hold what the process was forked from: VmHWM is of this alone
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii")) if status.exists() else None
    peak = 1024 * int(found[1]) if found else getattr(memory, "peak_wset", memory.rss)
    return result, before, peak / 1e6
