"""Ranking at Market size: torchreid's evaluators against ours."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, not_measured, timed
from embae_plugin.lab.benchmark.retrieval_inputs import Retrieval, make_retrieval
from embae_plugin.lab.benchmark.stock_ranking import (
    Evaluator,
    cython_evaluator,
    python_evaluator,
    rank_stock,
)

logger = logging.getLogger(__name__)
SUBJECT = "ranking"
FLOOR_TEXT = "operations of the distance product"


def product_floor(context: Context, device: str, num_query: int, num_gallery: int) -> float:
    """Seconds for the operations of the distance product alone."""
    operations = 2.0 * num_query * num_gallery * context.sizes.dim
    return context.rates_of(device).operations(operations)


def _some(data: Retrieval, count: int = 64) -> Retrieval:
    """The first queries: scores are compared on as many as torchreid does in a second or two."""
    return data._replace(
        q_emb=data.q_emb[:count],
        q_pids=data.q_pids[:count],
        q_camids=data.q_camids[:count],
    )


def agreement(data: Retrieval, evaluate: Evaluator) -> str:
    """Whether torchreid's evaluator and ours come to the same scores, in words."""
    few = _some(data)
    theirs, mine = rank_stock(few, evaluate), evaluate_embeddings(*few)["market"]
    gaps = abs(theirs[0] - mine.rank1), abs(theirs[1] - mine.mAP)
    if max(gaps) < 1e-4:
        return f"same rank-1 and mAP on {len(few.q_pids)} of the queries"
    logger.warning("torchreid's rank-1 and mAP %s, ours %s", theirs, (mine.rank1, mine.mAP))
    return (
        f"on {len(few.q_pids)} of the queries rank-1 differs by {gaps[0]:.1e}, mAP by {gaps[1]:.1e}"
    )


def _ours(data: Retrieval, device: str) -> Callable[[], object]:
    q_emb, g_emb = (torch.from_numpy(emb).to(device) for emb in data[:2])
    return lambda: evaluate_embeddings(q_emb, g_emb, *data[2:])


def _size(data: Retrieval) -> str:
    queries, (gallery, dim) = len(data.q_pids), data.g_emb.shape
    return f"{queries:,} queries × {gallery:,} gallery images, 751 ids, 6 cameras, {dim}-d"


def _against(context: Context, data: Retrieval, device: str, name: str, evaluate: Evaluator) -> Row:
    """One of torchreid's evaluators beside ours."""
    ours = timed(_ours(data, device), device)
    ours()  # sets up threads and memory; torchreid's first call takes a minute, so it counts
    stock = timed(lambda: rank_stock(data, evaluate))
    theirs, mine = alternate(f"ranking, {name} | ours", [stock, ours], context.repeats)
    return Row(
        SUBJECT, "ranking", device,
        stock=Measured(tuple(theirs), "s", name), ours=Measured(tuple(mine), "s"),
        floor=product_floor(context, device, len(data.q_pids), len(data.g_pids)),
        floor_text=FLOOR_TEXT,
        note="torchreid: distance matrix, Market protocol, one AP rule (for -nd it would have to "
        "run again). Ours: distances, Market and -nd protocol, both AP rules. In one process, "
        f"which keeps freed memory. Scores: {agreement(data, evaluate)}",
        size=_size(data),
    )  # fmt: skip


def _beside_product(context: Context, data: Retrieval, device: str) -> Row:
    """Ours beside the matrix product alone, into memory that is there already."""
    q_emb, g_emb = (torch.from_numpy(emb).to(device) for emb in data[:2])
    out = torch.empty(len(q_emb), len(g_emb), device=device)
    product = timed(lambda: torch.mm(q_emb, g_emb.T, out=out), device)
    alone, mine = alternate(
        "ranking, product | ours", [product, timed(_ours(data, device), device)],
        3 * context.repeats, warm_up=1,
    )  # fmt: skip
    return Row(
        SUBJECT, "ranking, beside the distance product alone", device,
        ours=Measured(tuple(mine), "s"), floor=Measured(tuple(alone), "s").median,
        floor_text="the distance product alone (torch.mm), measured in turn with ours",
        size=_size(data),
    )  # fmt: skip


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    sizes = context.sizes
    data = make_retrieval(sizes.query, sizes.gallery, sizes.dim)
    cython = cython_evaluator(context.cython_dir)

    def rows(device: str) -> list[Row]:
        name = f"torchreid {bridge.VERSION}, Python"
        made = [_against(context, data, device, name, python_evaluator)]
        if cython is None:
            why = "torchreid's Cython evaluator isn't built (--cython-dir names a folder with it)"
            made.append(not_measured(SUBJECT, "ranking, Cython", device, why))
        else:
            made.append(_against(context, data, device, "torchreid, Cython", cython))
        return [*made, _beside_product(context, data, device)]

    return context.on_each_device(SUBJECT, "ranking", rows)
