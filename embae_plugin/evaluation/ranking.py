"""Re-ID scores of a retrieval: every protocol and both average-precision rules in one pass.

Rule for ties: a negative at exactly a positive's distance counts as nearer (the pessimistic
order, so a model that maps everything to one point scores as badly as it should), and positives
at one distance stand one after the other. Equal gallery embeddings are at one distance, whatever
a processor rounds; a matrix of distances is taken as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from embae_plugin.evaluation.blockwise import score_blocks
from embae_plugin.evaluation.distances import EmbeddingDistances, MatrixDistances
from embae_plugin.evaluation.matching import Matching, Values
from embae_plugin.evaluation.metrics import FloatArray, Scores
from embae_plugin.precision import full_precision

BLOCK_BYTES = 2**27


@torch.inference_mode(False)  # a mode of one thread, whose tensors other threads can't write to
@torch.no_grad()
def evaluate_rank(
    distmat: Values,
    q_pids: Values, g_pids: Values, q_camids: Values, g_camids: Values,
    max_rank: int = 50, protocol: str = "market",
) -> tuple[FloatArray, float]:
    """Evaluate a distance matrix; the call and, under "market", the result are torchreid's.

    Args:
        distmat: ``(num_query, num_gallery)`` array or tensor on any device; smaller is nearer.
        q_pids, g_pids: integer identities; any values, -1 is an identity like the others.
        q_camids, g_camids: integer or string cameras.
        protocol: a name in ``PROTOCOLS``.

    Returns:
        ``cmc (max_rank,)`` and mAP (mean precision at hits), as fractions. The CMC keeps its
        last value past the end of a small gallery. Queries without a positive are in no
        average; if none is left, both are NaN and a warning is logged.

    Raises:
        ValueError: an argument is empty, mis-shaped, NaN or unknown; the message says which.
    """
    matrix = _as_floating("distmat", distmat)
    bad = int(matrix.amax(dim=1).isnan().sum())
    if bad:
        raise ValueError(f"distmat: {bad} of {len(matrix)} rows hold NaN")
    matching = Matching(q_pids, g_pids, q_camids, g_camids, matrix.shape, matrix.device)
    distances = MatrixDistances(matrix, matching.q_order, matching.g_order)
    [scores] = score_blocks(distances, matching, protocol, max_rank, BLOCK_BYTES).values()
    return scores.cmc, scores.mAP


@torch.inference_mode(False)  # a mode of one thread, whose tensors other threads can't write to
@torch.no_grad()
def evaluate_embeddings(
    q_emb: Values, g_emb: Values,
    q_pids: Values, g_pids: Values, q_camids: Values, g_camids: Values,
    *,
    protocols: Iterable[str] = ("market", "nd"), max_rank: int = 50,
    block_bytes: int = BLOCK_BYTES, device: str | torch.device | None = None,
) -> dict[str, Scores]:
    """Score embeddings by Euclidean distance under several protocols at once.

    The distance matrix is made and used block by block and never stored. Distances are float32
    without TF32 (float64 for float64 embeddings), half-precision embeddings are converted.

    Args:
        q_emb, g_emb: ``(num_query, dim)`` and ``(num_gallery, dim)`` arrays or tensors.
        q_pids, g_pids, q_camids, g_camids, max_rank, protocols: as in :func:`evaluate_rank`.
        block_bytes: what a block of distances may take. The peak is some three times that plus
            two copies of the gallery's embeddings.
        device: where to compute; the device of ``q_emb`` by default (numpy: the CPU).

    Returns:
        Protocol name -> :class:`Scores`. Queries without a positive are counted and in no
        average; a protocol that leaves no query at all (``nd`` on a target with one camera)
        has 0 queries and NaN scores, and a warning is logged.

    Raises:
        ValueError: an argument is empty, mis-shaped, NaN or unknown; the message says which.
    """
    query, gallery = _as_floating("q_emb", q_emb), _as_floating("g_emb", g_emb)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"q_emb has {query.shape[1]} dimensions and g_emb {gallery.shape[1]}: "
            "embed both with one model"
        )
    device = torch.device(query.device if device is None else device)
    sizes = len(query), len(gallery)
    matching = Matching(q_pids, g_pids, q_camids, g_camids, sizes, device)
    with full_precision(device):
        distances = EmbeddingDistances(query, gallery, matching.q_order, matching.g_order)
        return score_blocks(distances, matching, protocols, max_rank, block_bytes)


def _as_floating(name: str, values: Values) -> Tensor:
    """A 2-D tensor of a floating type; integers of 32 and more bits as float64, others float32."""
    if isinstance(values, Tensor) and values.is_floating_point():
        found = values.detach()
    else:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
        if array.dtype not in (np.float16, np.float32, np.float64):
            array = array.astype(np.float64 if array.itemsize > 2 else np.float32)
        if any(stride < 0 or stride % array.itemsize for stride in array.strides):
            array = array.copy()  # torch knows no such memory
        with warnings.catch_warnings():  # of arrays that are read-only; nothing writes to them
            warnings.simplefilter("ignore", UserWarning)
            found = torch.from_numpy(array)
    if found.ndim != 2 or not found.numel():
        raise ValueError(f"{name} must be 2-D and not empty, got shape {tuple(found.shape)}")
    return found
