"""Ranking: torchreid's evaluators against ours, at Market size and with growing galleries.

torchreid's engines compute the whole distance matrix, then sort every row.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.machine import FreshProcess, peak_of
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, not_measured, seconds
from embae_plugin.runtime import tune_allocator

logger = logging.getLogger(__name__)

PRODUCT = "operations of the distance product"
# float32 distances, int64 argsort, int32 matches and the int64 ids they are compared from
STOCK_BYTES_A_PAIR = 4 + 8 + 4 + 8
MAX_RANK = 50  # torchreid's default, and ours
IDENTITIES, CAMERAS = 750, 6  # of Market-1501's test split; its background is the 751st id
IMAGES_EACH = 17  # gallery images of an identity
BACKGROUND = 2798 / 15913  # share of gallery images that show none of the identities

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Evaluator = Callable[..., tuple[Any, float]]


class Retrieval(NamedTuple):
    """What an evaluator takes."""

    q_emb: Floats
    g_emb: Floats
    q_pids: Ints
    g_pids: Ints
    q_camids: Ints
    g_camids: Ints


def make_retrieval(
    num_query: int, num_gallery: int, dim: int, seed: int = 0, matched: int = 15913
) -> Retrieval:
    """Draws a retrieval: identity's centre, camera's, and noise, scaled to length 1.

    What a gallery has beyond ``matched`` images is distractors, as in Market-1501+500k: queries
    keep the number of positives that they have in Market-1501, about 17.
    """
    rng = np.random.default_rng(seed)
    known = int(min(num_gallery, matched) * (1 - BACKGROUND))
    count = min(IDENTITIES, max(1, known // IMAGES_EACH))
    weights = rng.gamma(3.0, 1.0, count)  # images of an identity: as unequal as Market's
    q_pids = rng.choice(count, num_query, p=weights / weights.sum()) + 1
    g_pids = np.zeros(num_gallery, dtype=np.int64)
    g_pids[:known] = rng.choice(count, known, p=weights / weights.sum()) + 1
    rng.shuffle(g_pids)
    people = rng.standard_normal((count + 1, dim), dtype=np.float32)
    people[0] = 0
    cameras = rng.standard_normal((CAMERAS, dim), dtype=np.float32)

    def embed(pids: Ints, camids: Ints) -> Floats:
        out = np.empty((len(pids), dim), dtype=np.float32)
        for start in range(0, len(pids), 8192):  # in pieces: the peak of memory is measured
            part = out[start : start + 8192]
            stop = start + len(part)
            rng.standard_normal(out=part, dtype=np.float32)
            part += 0.6 * people[pids[start:stop]] + 0.4 * cameras[camids[start:stop]]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return out

    q_camids, g_camids = (rng.integers(CAMERAS, size=n) for n in (num_query, num_gallery))
    return Retrieval(
        embed(q_pids, q_camids), embed(g_pids, g_camids), q_pids, g_pids, q_camids, g_camids
    )


def cython_evaluator(folder: str | Path = "") -> Evaluator | None:
    """torchreid's evaluator in Cython, or None where there is none.

    A ``folder`` must hold a built ``rank_cy``; without one, the installed torchreid is looked at.
    """
    if not folder:
        return getattr(sys.modules[bridge.evaluate_rank.__module__], "evaluate_cy", None)
    spec = PathFinder.find_spec("rank_cy", [str(folder)])
    if spec is None or spec.loader is None:
        raise FileNotFoundError(
            f"{folder} has no compiled rank_cy extension. In torchreid's source from GitHub, in "
            "torchreid/metrics/rank_cylib: python setup.py build_ext --inplace (needs Cython)"
        )
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    evaluate: Evaluator = module.evaluate_cy
    return evaluate


def python_evaluator(*arguments: Any) -> tuple[Any, float]:
    """torchreid's evaluator in Python: all there is in the package on PyPI."""
    cmc, mean_ap = bridge.evaluate_rank(*arguments, use_cython=False)
    return cmc, float(mean_ap)


def rank_stock(data: Retrieval, evaluate: Evaluator) -> tuple[float, float]:
    """Rank-1 and mAP, Market protocol only; with ``-nd`` torchreid would have to run again."""
    distances = bridge.compute_distance_matrix(
        torch.from_numpy(data.q_emb), torch.from_numpy(data.g_emb)
    )
    with bridge.quiet():
        cmc, mean_ap = evaluate(distances.numpy(), *data[2:], MAX_RANK)
    return float(cmc[0]), float(mean_ap)


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
    """Each of torchreid's evaluators against ours, and ours against the distance product alone."""
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
