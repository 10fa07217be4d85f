"""What a network takes: the size of its images and how they are normalised."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Triple = tuple[float, float, float]

LARGEST = 10_000  # pixels of an input's side; more is a mistake that no memory holds


@dataclass(frozen=True)
class InputSpec:
    """What the network takes.

    Attributes:
        height, width: pixels.
        norm_mean, norm_std: what images in [0, 1] are normalised by, for R, G and B.
    """

    height: int
    width: int
    norm_mean: Triple
    norm_std: Triple

    def __post_init__(self) -> None:
        if not (1 <= self.height <= LARGEST and 1 <= self.width <= LARGEST):
            raise ValueError(f"an input of {self.height} x {self.width} pixels is impossible")
        mean, std = self.norm_mean, self.norm_std
        triples = len(mean) == len(std) == 3
        if not triples or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"norm_mean {mean} and norm_std {std} must be 3 values each, std > 0")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def make(
        cls, height: int, width: int, norm_mean: Sequence[float], norm_std: Sequence[float]
    ) -> InputSpec:
        """From numbers of any kind.

        Raises:
            ValueError: no numbers, no whole ones of pixels, or impossible ones.
        """
        try:
            mean, std = (tuple(float(value) for value in three) for three in (norm_mean, norm_std))
            sizes = operator.index(height), operator.index(width)
        except (TypeError, ValueError):
            raise ValueError(f"an input of height {height!r}, width {width!r}, norm_mean "
                             f"{norm_mean!r} and norm_std {norm_std!r}: sizes are whole numbers of "
                             "pixels, the others 3 numbers") from None
        return cls(*sizes, mean, std)  # type: ignore[arg-type]
