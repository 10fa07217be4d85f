"""What the machine is, and how fast it multiplies and copies: the floors everything is held to."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil
import torch

from embae_plugin import __version__
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.parallel import cpu_count
from embae_plugin.lab.benchmark.measure import seconds

DEVICES = ("cpu", "cuda")
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices multiplied
_COPIED = {"cpu": 2**26, "cuda": 2**29}  # float32 elements: more than fits in a core's cache


@dataclass(frozen=True)
class Rates:
    """What a device does at its best, measured.

    Attributes:
        flops: float32 operations (multiplications and additions) a second, in a matrix product.
        flops_bf16: the same in bfloat16; 0 where the hardware has none.
        bytes: a second, read and written, in a copy of a large array.
    """

    flops: float
    flops_bf16: float
    bytes: float

    def best(self, other: Rates) -> Rates:
        """The higher of each."""
        return Rates(
            max(self.flops, other.flops),
            max(self.flops_bf16, other.flops_bf16),
            max(self.bytes, other.bytes),
        )

    def operations(self, count: float, bf16: bool = False) -> float:
        """Seconds that so many operations take."""
        return count / (self.flops_bf16 if bf16 and self.flops_bf16 else self.flops)

    def traffic(self, count: float) -> float:
        """Seconds that so many bytes take."""
        return count / self.bytes


def _matmul_flops(device: str, dtype: torch.dtype, runs: int) -> float:
    side = _SIDE[device]
    # no ones: a chip multiplies them faster than what anybody has to multiply
    a = torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    best = min(seconds(lambda: torch.mm(a, a, out=out), device) for _ in range(runs))
    return 2 * side**3 / best


def measure_rates(device: str, bf16: bool, runs: int = 4) -> Rates:
    """Measures a device; the best of ``runs``, because a floor is no average.

    Args:
        device: ``cpu`` or ``cuda``.
        bf16: whether bfloat16 is worth measuring.
    """
    source = torch.ones(_COPIED[device], device=device)
    copy = torch.empty_like(source)
    copy.copy_(source)
    best = min(seconds(lambda: copy.copy_(source), device) for _ in range(runs))
    return Rates(
        flops=_matmul_flops(device, torch.float32, runs),
        flops_bf16=_matmul_flops(device, torch.bfloat16, runs) if bf16 else 0.0,
        bytes=2 * source.numel() * source.element_size() / best,
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def present_devices() -> tuple[str, ...]:
    """Those of :data:`DEVICES` that this machine has."""
    return DEVICES if torch.cuda.is_available() else DEVICES[:1]


def describe() -> dict[str, str]:
    """The machine, the versions and the date, as lines of a report."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    load = f"{psutil.getloadavg()[0]:.1f}" if hasattr(psutil, "getloadavg") else "unknown"
    threads = f"{cpu_count()} cores, {torch.get_num_threads()} torch threads"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {threads}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": f"embae {__version__}, torchreid {bridge.VERSION} ({bridge.LAYOUT}), "
        f"torch {torch.__version__}, numpy {np.__version__}",
        "load before the start": f"{load} (anything above 0 disturbs the timings)",
    }


def describe_rates(rates: Rates) -> str:
    """One line."""
    bf16 = f", {rates.flops_bf16 / 1e9:,.0f} in bfloat16" if rates.flops_bf16 else ""
    return (
        f"{rates.flops / 1e9:,.0f} GFLOP/s in a float32 matrix product{bf16}; "
        f"{rates.bytes / 1e9:,.1f} GB/s read and written in a copy"
    )
