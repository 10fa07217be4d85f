"""Ranking: torchreid's evaluators against ours at Market size, and how large galleries grow."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.allocator import tune_allocator
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.fresh import FreshProcess, peak_of
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, not_measured, seconds
from embae_plugin.lab.benchmark.retrieval_inputs import Retrieval, make_retrieval
from embae_plugin.lab.benchmark.stock_torchreid import (
    Evaluator,
    cython_evaluator,
    python_evaluator,
    rank_stock,
)

logger = logging.getLogger(__name__)

PRODUCT = "operations of the distance product"
# float32 distances, int64 argsort, int32 matches and the int64 ids they are compared from
STOCK_BYTES_A_PAIR = 4 + 8 + 4 + 8


def product_floor(context: Context, device: str, num_query: int, num_gallery: int) -> float:
    """Seconds for the operations of the distance product alone."""
    operations = 2.0 * num_query * num_gallery * context.sizes.dim
    return context.rates[device].operations(operations)


def agreement(data: Retrieval, evaluate: Evaluator, count: int = 64) -> str:
    """Whether torchreid's scores and ours of the first queries are the same, in words."""
    few = Retrieval(data[0][:count], data[1], data[2][:count], data[3], data[4][:count], data[5])
    theirs, mine = rank_stock(few, evaluate), evaluate_embeddings(*few)["market"]
    gaps = abs(theirs[0] - mine.rank1), abs(theirs[1] - mine.mAP)
    if max(gaps) < 1e-4:
        return f"same rank-1 and mAP on {len(few.q_pids)} of the queries"
    logger.warning("torchreid's rank-1 and mAP %s, ours %s", theirs, (mine.rank1, mine.mAP))
    return (
        f"on {len(few.q_pids)} of the queries rank-1 differs by {gaps[0]:.1e}, mAP by {gaps[1]:.1e}"
    )


def ranking_rows(context: Context, device: str) -> list[Row]:
    """Each of torchreid's evaluators beside ours, and ours beside the distance product alone."""
    sizes, cython = context.sizes, cython_evaluator(context.cython_dir)
    data = make_retrieval(sizes.query, sizes.gallery, sizes.dim)
    row = partial(
        Row, "ranking", device=device,
        size=f"{sizes.query:,} queries × {sizes.gallery:,} gallery images, 751 ids, 6 cameras, "
        f"{sizes.dim}-d",
    )
    q_emb, g_emb = (torch.from_numpy(emb).to(device) for emb in data[:2])

    def ours() -> float:
        return seconds(lambda: evaluate_embeddings(q_emb, g_emb, *data[2:]), device)

    def against(name: str, evaluate: Evaluator) -> Row:
        ours()  # sets up threads and memory; torchreid's first call takes a minute, so it counts
        stock = partial(seconds, lambda: rank_stock(data, evaluate))
        theirs, mine = alternate(f"ranking, {name} | ours", [stock, ours], context.repeats)
        return row(
            "ranking", stock=Measured(theirs, "s", name), ours=Measured(mine, "s"),
            floor=product_floor(context, device, sizes.query, sizes.gallery), floor_text=PRODUCT,
            note="torchreid: distance matrix, Market protocol, one AP rule (for -nd it would have "
            "to run again). Ours: distances, Market and -nd protocol, both AP rules. In one "
            f"process, which keeps freed memory. Scores: {agreement(data, evaluate)}",
        )

    rows = [against(f"torchreid {bridge.VERSION}, Python", python_evaluator)]
    if cython is None:
        why = "torchreid's Cython evaluator isn't built (--cython-dir names a folder with it)"
        rows.append(not_measured("ranking", "ranking, Cython", device, why))
    else:
        rows.append(against("torchreid, Cython", cython))
    out = torch.empty(len(q_emb), len(g_emb), device=device)  # memory that is there already
    product = partial(seconds, lambda: torch.mm(q_emb, g_emb.T, out=out), device)
    alone, mine = alternate("ranking, product | ours", [product, ours], 3 * context.repeats, 1)
    rows.append(row(
        "ranking, beside the distance product alone", ours=Measured(mine, "s"),
        floor=Measured(alone, "s").median,
        floor_text="the distance product alone (torch.mm), measured in turn with ours",
    ))
    return rows


def probe(
    ours: bool, num_query: int, num_gallery: int, dim: int, repeats: int, device: str = "cpu"
) -> tuple[list[float], float, float]:
    """Ranks in the process it is called in, which should be a fresh one.

    ``ours`` is this package's evaluator, as a command runs it; else torchreid's in Python.

    Returns:
        seconds of each run, MB in use before the first, and MB at the peak.
    """
    data = make_retrieval(num_query, num_gallery, dim)
    rank: Callable[[], object] = partial(rank_stock, data, python_evaluator)
    if ours:
        tune_allocator()
        rank = partial(evaluate_embeddings, *data, device=device)
    return peak_of(lambda: [seconds(rank, device) for _ in range(repeats)])


def growth_note(galleries: list[int], times: list[float], peaks: list[float]) -> str:
    """How time and memory grew from the smallest to the largest gallery, in a sentence."""
    wider, longer = galleries[-1] / galleries[0], times[-1] / times[0]
    slope = 1000 * (peaks[-1] - peaks[0]) / (galleries[-1] - galleries[0])
    return (
        f"{wider:.3g} times the gallery takes {longer:.3g} times as long (a power of "
        f"{math.log(longer) / math.log(wider):.2f}), and {slope:.2f} MB more for each 1,000 images"
    )


def growth_rows(context: Context, device: str) -> list[Row]:
    """Time and peak memory of each gallery; torchreid's of the smallest, from some queries."""
    sizes, galleries = context.sizes, sorted(context.sizes.large_galleries)
    few, whole = sizes.stock_query, sizes.query / sizes.stock_query
    row = partial(
        Row, "growth", device=device, size=f"{sizes.query:,} queries, {sizes.dim}-d; galleries as "
        "Market-1501's, filled up with distractors",
    )
    rows, times, peaks = [], [], []
    for gallery in galleries:
        with FreshProcess() as process:
            runs, before, peak = process.call(
                probe, True, sizes.query, gallery, sizes.dim, context.repeats, device
            )
        mine, mine_mb = Measured(tuple(runs), "s"), Measured((peak,), "MB")
        theirs = theirs_mb = None
        size = STOCK_BYTES_A_PAIR * sizes.query * gallery / 1e9
        note = f"torchreid not run: its matrices would take {size:,.0f} GB"
        if gallery == galleries[0]:
            with FreshProcess() as process:
                (took,), empty, full = process.call(probe, False, few, gallery, sizes.dim, 1)
            name = f"torchreid {bridge.VERSION}, Python, {few} queries × {whole:.0f}"
            theirs = Measured((took * whole,), "s", name)
            theirs_mb = Measured((empty + (full - empty) * whole,), "MB", name)
            note = (f"torchreid was run on {few:,} queries ({took:.1f} s, {full:,.0f} MB) and "
                    "scaled by the number of queries, as all its matrices and loops grow by it")
        what = f"ranking, {sizes.query:,} × {gallery:,}"
        floor = product_floor(context, device, sizes.query, gallery)
        rows += [
            row(what, stock=theirs, ours=mine, floor=floor, floor_text=PRODUCT, note=note),
            row(f"{what}, peak memory", stock=theirs_mb, ours=mine_mb, floor=before,
                floor_text="the same process before it ranks: Python, torch, the embeddings",
                note="the whole process, a fresh one that only ranks"),
        ]
        times.append(mine.median)
        peaks.append(peak)
    note = growth_note(galleries, times, peaks)
    return [*rows, Row("growth", "growth", device, note=note)]
