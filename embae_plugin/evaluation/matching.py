"""Who is whose match: the index structure of an evaluation, before any distance is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Codes = npt.NDArray[np.int64]
Values = npt.ArrayLike | Tensor


def _encode_ids(
    name: str, query: Values, gallery: Values, sizes: Sequence[int]
) -> tuple[Codes, Codes]:
    """The ids of query and gallery as 0, 1, 2, ... in common."""
    kinds, allowed = ("iuU", "integers or strings") if name == "camids" else ("iu", "integers")
    q_ids, g_ids = (np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids)
                    for ids in (query, gallery))
    for side, ids, rows in zip("qg", (q_ids, g_ids), sizes, strict=True):
        if ids.shape != (rows,):
            raise ValueError(f"{side}_{name} must be one id for each of {rows} rows, "
                             f"got shape {ids.shape}")
        if ids.dtype.kind not in kinds:
            raise ValueError(f"{side}_{name} must be {allowed}, got dtype {ids.dtype}")
    if (q_ids.dtype.kind == "U") != (g_ids.dtype.kind == "U"):
        raise ValueError(f"q_{name} and g_{name} must both be integers or both be strings")
    _, codes = np.unique(np.concatenate([q_ids, g_ids]), return_inverse=True)
    codes = codes.reshape(-1).astype(np.int64)
    return codes[: len(q_ids)], codes[len(q_ids) :]


class Matching:
    """Queries and gallery in an order that turns cameras and identities into slices.

    The gallery is ordered by camera: what a query's camera took is one slice of the columns.
    Queries are ordered by camera, then by the number of gallery items that other cameras took of
    their identity: rows that are worked on together belong to one camera and have about the same
    number of positives.

    Attributes:
        q_order, g_order: ``(num_query,)``, ``(num_gallery,)``: the input index at each position.
        own: ``(num_query, 2)`` first and last (exclusive) gallery position of the query's camera.
        most_matches: the most gallery items that any query's identity has.
    """

    def __init__(
        self, q_pids: Values, g_pids: Values, q_cams: Values, g_cams: Values,
        sizes: Sequence[int], device: torch.device,
    ) -> None:
        q_ids, g_ids = _encode_ids("pids", q_pids, g_pids, sizes)
        q_cam, g_cam = _encode_ids("camids", q_cams, g_cams, sizes)

        def to(array: Codes) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        count = np.bincount(g_ids, minlength=int(q_ids.max()) + 1)
        cameras = int(max(q_cam.max(), g_cam.max())) + 1
        both = np.sort(g_ids * cameras + g_cam)
        elsewhere = count[q_ids] - np.diff(_edges(both, q_ids * cameras + q_cam))[:, 0]
        q_order = np.lexsort((elsewhere, q_cam))
        g_order = np.argsort(g_cam, kind="stable")
        q_ids, q_cam = q_ids[q_order], q_cam[q_order]
        g_ids, g_cam = g_ids[g_order], g_cam[g_order]

        self.most_matches = int(count[q_ids].max())
        self.q_order, self.g_order = to(q_order), to(g_order)
        self.own = _edges(g_cam, q_cam)
        self._q_cams, self._g_cams = to(q_cam), to(g_cam)
        # gallery positions grouped by identity, and each query's stretch of them
        self._by_pid = to(np.argsort(g_ids, kind="stable"))
        self._first, self._count = to((np.cumsum(count) - count)[q_ids]), to(count[q_ids])

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs of the queries ``start:stop`` with gallery items of their identity.

        Returns:
            ``rows`` counted from ``start`` and ascending, ``columns`` (positions in
            ``g_order``), and whether the pair shares a camera, each ``(num_pairs,)``.
        """
        count = self._count[start:stop]
        rows = torch.arange(stop - start, device=count.device).repeat_interleave(count)
        shift = self._first[start:stop] - (count.cumsum(0) - count)
        columns = self._by_pid[shift[rows] + torch.arange(len(rows), device=count.device)]
        return rows, columns, self._q_cams[start:stop][rows] == self._g_cams[columns]


def _edges(ascending: Codes, wanted: Codes) -> Codes:
    """(n, 2) where each wanted number begins and ends in an ascending list."""
    left, right = (np.searchsorted(ascending, wanted, side="left"),
                   np.searchsorted(ascending, wanted, side="right"))
    return np.stack([left, right], axis=1)
