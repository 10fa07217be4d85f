"""Ranking against large galleries: time, peak memory, and how both grow."""

from __future__ import annotations

import math

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.fresh import FreshProcess, peak_of
from embae_plugin.lab.benchmark.measure import Measured, Row, seconds
from embae_plugin.lab.benchmark.ranking_speed import FLOOR_TEXT, product_floor
from embae_plugin.lab.benchmark.retrieval_inputs import make_retrieval
from embae_plugin.lab.benchmark.stock_ranking import python_evaluator, rank_stock
from embae_plugin.runtime import tune_allocator

SUBJECT = "growth"
# float32 distances, int64 argsort, int32 matches and the int64 ids they are compared from
STOCK_BYTES_A_PAIR = 4 + 8 + 4 + 8


def probe(
    ours: bool, num_query: int, num_gallery: int, dim: int, repeats: int, device: str = "cpu"
) -> tuple[list[float], float, float]:
    """Ranks in the process it is called in, which should be a fresh one.

    Args:
        ours: this package's evaluator, as a command runs it; else torchreid's in Python.
        num_query, num_gallery, dim: sizes.
        repeats: timed runs.
        device: where ours computes.

    Returns:
        seconds of each run, MB in use before the first, and MB at the peak.
    """
    data = make_retrieval(num_query, num_gallery, dim)
    if ours:
        tune_allocator()

    def rank() -> object:
        if ours:
            return evaluate_embeddings(*data, device=device)
        return rank_stock(data, python_evaluator)

    return peak_of(lambda: [seconds(rank, device) for _ in range(repeats)])


def _stock(context: Context, num_gallery: int) -> tuple[Measured, Measured, str]:
    """torchreid's seconds and MB for all queries, from some of them, and how that was done."""
    sizes = context.sizes
    few, whole = sizes.stock_query, sizes.query / sizes.stock_query
    with FreshProcess() as process:
        runs, before, peak = process.call(probe, False, few, num_gallery, sizes.dim, 1)
    name = f"torchreid {bridge.VERSION}, Python, {few} queries × {whole:.0f}"
    grown = before + (peak - before) * whole
    note = (
        f"torchreid was run on {few:,} queries ({runs[0]:.1f} s, {peak:,.0f} MB) and scaled by the "
        f"number of queries, as all its matrices and loops grow by it"
    )
    return Measured(tuple(runs), "s", name).scaled(whole), Measured((grown,), "MB", name), note


def _gallery_rows(context: Context, num_gallery: int, device: str) -> tuple[Row, Row]:
    """Time and peak memory for one gallery."""
    sizes = context.sizes
    with FreshProcess() as process:
        runs, before, peak = process.call(
            probe, True, sizes.query, num_gallery, sizes.dim, context.repeats, device
        )
    theirs = theirs_mb = None
    size = STOCK_BYTES_A_PAIR * sizes.query * num_gallery / 1e9
    note = f"torchreid not run: its matrices would take {size:,.0f} GB"
    if num_gallery == min(sizes.large_galleries):
        theirs, theirs_mb, note = _stock(context, num_gallery)
    what = f"ranking, {sizes.query:,} × {num_gallery:,}"
    floor = product_floor(context, device, sizes.query, num_gallery)
    time_row = Row(
        SUBJECT,
        what,
        device,
        theirs,
        Measured(tuple(runs), "s"),
        floor,
        FLOOR_TEXT,
        note,
        _size(context),
    )
    memory_row = Row(
        SUBJECT, f"{what}, peak memory", device, theirs_mb, Measured((peak,), "MB"),
        before, "the same process before it ranks: Python, torch, the embeddings",
        "the whole process, a fresh one that only ranks", _size(context),
    )  # fmt: skip
    return time_row, memory_row


def growth_note(galleries: list[int], times: list[float], peaks: list[float]) -> str:
    """How time and memory grew from the smallest to the largest gallery, in a sentence."""
    wider, longer = galleries[-1] / galleries[0], times[-1] / times[0]
    slope = 1000 * (peaks[-1] - peaks[0]) / (galleries[-1] - galleries[0])
    return (
        f"{wider:.3g} times the gallery takes {longer:.3g} times as long (a power of "
        f"{math.log(longer) / math.log(wider):.2f}), and {slope:.2f} MB more for each 1,000 images"
    )


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    galleries = sorted(context.sizes.large_galleries)

    def rows(device: str) -> list[Row]:
        pairs = [_gallery_rows(context, gallery, device) for gallery in galleries]
        made = [row for pair in pairs for row in pair]
        if len(galleries) > 1:
            columns = zip(*pairs, strict=True)
            medians = [[row.ours.median for row in column if row.ours] for column in columns]
            note = growth_note(galleries, medians[0], medians[1])
            made.append(Row(SUBJECT, "growth", device, note=note))
        return made

    return context.on_each_device(SUBJECT, "ranking, large galleries", rows)


def _size(context: Context) -> str:
    sizes = context.sizes
    return (
        f"{sizes.query:,} queries, {sizes.dim}-d; galleries as Market-1501's, filled up with "
        "distractors"
    )
