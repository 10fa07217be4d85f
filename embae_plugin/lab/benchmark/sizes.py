"""How large each subject's work is: the full measurement, and the quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of one measurement.

    Attributes:
        name: ``full`` or ``quick``.
        repeats: of every measurement, unless the command says otherwise.
        query, gallery, dim: images and width of an embedding in the ranking.
        large_galleries: images in the galleries that growth is measured on.
        stock_query: queries that torchreid is given with a large gallery; it keeps several
            matrices of queries × gallery in memory, so all of them would not fit.
        trunk: a name for ``build_trunk``.
        height, width: of the network's input.
        train_steps: timed steps of stage 1; one before them is not.
        extract_images: images whose features are extracted.
        ae_steps, trunk_steps: timed steps of stages 2 and 3, with features cached and recomputed.
        target: images of the target in training, query and gallery (stage 3, end to end).
    """

    name: str
    repeats: int
    query: int
    gallery: int
    dim: int
    large_galleries: tuple[int, ...]
    stock_query: int
    trunk: str
    height: int
    width: int
    train_steps: int
    extract_images: int
    ae_steps: int
    trunk_steps: int
    target: tuple[int, int, int]


FULL = Sizes(
    "full", repeats=3, query=3368, gallery=15913, dim=128, large_galleries=(100_000, 500_000),
    stock_query=337, trunk="mobilenetv1", height=256, width=128, train_steps=6,
    extract_images=1200, ae_steps=40, trunk_steps=4, target=(12_936, 3368, 15_913),
)  # fmt: skip
QUICK = Sizes(
    "quick", repeats=2, query=128, gallery=15913, dim=128, large_galleries=(20_000, 100_000),
    stock_query=16, trunk="mobilenetv1", height=128, width=64, train_steps=2,
    extract_images=600, ae_steps=8, trunk_steps=1, target=(500, 100, 500),
)  # fmt: skip
