"""Scores by the definition, one query at a time, in float64: slow and easy to check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Retrieval:
    """Random embeddings with identities and cameras."""

    q_emb: np.ndarray
    g_emb: np.ndarray
    q_pids: np.ndarray
    g_pids: np.ndarray
    q_camids: np.ndarray
    g_camids: np.ndarray

    @classmethod
    def random(cls, seed, queries, gallery, identities=5, cameras=3, dim=8):
        rng = np.random.default_rng(seed)
        return cls(
            rng.standard_normal((queries, dim), dtype=np.float32),
            rng.standard_normal((gallery, dim), dtype=np.float32),
            rng.integers(-1, identities - 1, queries),
            rng.integers(-1, identities - 1, gallery),
            rng.integers(0, cameras, queries),
            rng.integers(0, cameras, gallery),
        )

    @property
    def ids(self):
        return self.q_pids, self.g_pids, self.q_camids, self.g_camids

    @property
    def args(self):
        return self.q_emb, self.g_emb, *self.ids

    @property
    def distmat(self):
        difference = self.q_emb.astype(np.float64)[:, None] - self.g_emb.astype(np.float64)[None]
        return np.sqrt((difference**2).sum(-1))


def ranked_matches(distances, q_pid, g_pids, q_cam, g_cams, protocol):
    """0/1 matches of one query's kept gallery items, nearest first, negatives before positives."""
    keep = g_cams != q_cam
    if protocol == "market":
        keep |= g_pids != q_pid
    match = (g_pids == q_pid)[keep]
    return match[np.lexsort((match, distances[keep]))]


def average_precisions(match):
    """Mean precision at hits, and the loop of the Market-1501 MATLAB code."""
    total, hits, old_recall, old_precision, trapezoid = match.sum(), 0, 0.0, 1.0, 0.0
    at_hits = []
    for position, hit in enumerate(match, start=1):
        hits += int(hit)
        recall, precision = hits / total, hits / position
        trapezoid += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        if hit:
            at_hits.append(precision)
    return float(np.mean(at_hits)), trapezoid


def brute_force(distmat, q_pids, g_pids, q_camids, g_camids, protocol, max_rank):
    """Return cmc, mAP, mAP by trapezoids, and the number of dropped queries."""
    cmcs, precisions, dropped = [], [], 0
    for row in range(len(q_pids)):
        match = ranked_matches(distmat[row], q_pids[row], g_pids, q_camids[row], g_camids, protocol)
        if not match.any():
            dropped += 1
            continue
        cmcs.append([bool(match[: rank + 1].any()) for rank in range(max_rank)])
        precisions.append(average_precisions(match))
    if not cmcs:
        return np.full(max_rank, np.nan), np.nan, np.nan, dropped
    first, trapezoid = np.mean(precisions, axis=0)
    return np.mean(cmcs, axis=0), first, trapezoid, dropped
