"""torchreid's evaluation as its engines do it: the whole distance matrix, then every row sorted."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.lab.benchmark.retrieval_inputs import Retrieval

logger = logging.getLogger(__name__)

Evaluator = Callable[..., tuple[Any, float]]
MAX_RANK = 50  # torchreid's default, and ours


def load_extension(folder: str | Path) -> Evaluator:
    """torchreid's ``evaluate_cy`` out of a folder that holds a built ``rank_cy``.

    Raises:
        FileNotFoundError: the folder has no such file; says how it is built.
        ImportError: it was built for another Python or numpy.
    """
    found = [p for p in sorted(Path(folder).glob("rank_cy*")) if p.suffix in (".so", ".pyd")]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no compiled rank_cy extension. In torchreid's source from GitHub, in "
            "torchreid/metrics/rank_cylib: python setup.py build_ext --inplace (needs Cython)"
        )
    spec = importlib.util.spec_from_file_location("rank_cy", found[0])
    if spec is None or spec.loader is None:
        raise ImportError(f"{found[0]} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    evaluate: Evaluator = module.evaluate_cy
    return evaluate


def cython_evaluator(folder: str | Path = "") -> Evaluator | None:
    """torchreid's evaluator in Cython, or None where there is none.

    Args:
        folder: see :func:`load_extension`; ``""`` looks in the installed torchreid.
    """
    if folder:
        return load_extension(folder)
    module = sys.modules[bridge.evaluate_rank.__module__]
    found: Evaluator | None = getattr(module, "evaluate_cy", None)
    return found


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
