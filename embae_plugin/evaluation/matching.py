"""Who is whose match: the index structure of an evaluation, before any distance is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embae_plugin.evaluation.inputs import Codes, encode_ids


class Matching:
    """Queries and gallery in an order that turns cameras and identities into slices.

    The gallery is ordered by camera: what a query's camera took is one slice of the columns.
    Queries are ordered by camera, then by the number of gallery items that other cameras took of
    their identity: rows that are worked on together belong to one camera and have about the same
    number of positives.

    Args:
        q_pids, g_pids, q_cams, g_cams: see :func:`encode_ids`.
        sizes: how many queries and gallery items there are.
        device: of the index.

    Attributes:
        q_order, g_order: ``(num_query,)``, ``(num_gallery,)``: the input index at each position.
        own: ``(num_query, 2)`` first and last (exclusive) gallery position of the query's camera.
        most_matches: the most gallery items that any query's identity has.
    """

    def __init__(
        self, q_pids: Any, g_pids: Any, q_cams: Any, g_cams: Any,
        sizes: Sequence[int], device: torch.device,
    ) -> None:
        q_pids, g_pids = encode_ids("pids", q_pids, g_pids, sizes)
        q_cams, g_cams = encode_ids("camids", q_cams, g_cams, sizes)

        def to(array: Codes) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        count = np.bincount(g_pids, minlength=int(q_pids.max()) + 1)
        cameras = int(max(q_cams.max(), g_cams.max())) + 1
        both = np.sort(g_pids * cameras + g_cams)
        elsewhere = count[q_pids] - np.diff(_edges(both, q_pids * cameras + q_cams))[:, 0]
        q_order = np.lexsort((elsewhere, q_cams))
        g_order = np.argsort(g_cams, kind="stable")
        q_pids, q_cams = q_pids[q_order], q_cams[q_order]
        g_pids, g_cams = g_pids[g_order], g_cams[g_order]

        self.most_matches = int(count[q_pids].max())
        self.q_order, self.g_order = to(q_order), to(g_order)
        self.own = _edges(g_cams, q_cams)
        self._q_cams, self._g_cams = to(q_cams), to(g_cams)
        # gallery positions grouped by identity, and each query's stretch of them
        self._by_pid = to(np.argsort(g_pids, kind="stable"))
        self._first, self._count = to((np.cumsum(count) - count)[q_pids]), to(count[q_pids])

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return all pairs of the queries ``start:stop`` with gallery items of their identity.

        Returns:
            ``rows`` counted from ``start`` and ascending, ``columns`` (positions in
            ``g_order``), and whether the pair shares a camera, each ``(num_pairs,)``.
        """
        count = self._count[start:stop]
        rows = torch.arange(stop - start, device=count.device).repeat_interleave(count)
        shift = self._first[start:stop] - (count.cumsum(0) - count)
        columns = self._by_pid[shift[rows] + torch.arange(len(rows), device=count.device)]
        same_camera = self._q_cams[start:stop][rows] == self._g_cams[columns]
        return rows, columns, same_camera


def _edges(ascending: Codes, wanted: Codes) -> Codes:
    """(n, 2) where each wanted number begins and ends in an ascending list."""
    sides = [np.searchsorted(ascending, wanted, side="left"),
             np.searchsorted(ascending, wanted, side="right")]
    return np.stack(sides, axis=1)
