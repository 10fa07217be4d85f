"""Checks and conversions of what users hand to the evaluators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Codes = npt.NDArray[np.int64]


def as_floating(name: str, values: Any) -> Tensor | npt.NDArray[Any]:
    """Return ``values`` as a detached 2-D tensor or array, without copying numpy or torch data.

    Raises:
        ValueError: it isn't two-dimensional, is empty, or isn't numeric.
    """
    matrix = values.detach() if isinstance(values, Tensor) else np.asarray(values)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be 2-D, got shape {tuple(matrix.shape)}")
    if 0 in matrix.shape:
        raise ValueError(f"{name} is empty: shape {tuple(matrix.shape)}")
    if isinstance(matrix, np.ndarray) and matrix.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got dtype {matrix.dtype}")
    if isinstance(matrix, Tensor) and (matrix.is_complex() or matrix.dtype == torch.bool):
        raise ValueError(f"{name} must hold real numbers, got dtype {matrix.dtype}")
    return matrix


def take_rows(matrix: Tensor | npt.NDArray[Any], rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a fresh copy of these rows as ``dtype``, on the device of the index ``rows``."""
    if isinstance(matrix, Tensor):
        taken = matrix.index_select(0, rows.to(matrix.device))
    else:
        taken = torch.from_numpy(np.ascontiguousarray(matrix[rows.cpu().numpy()]))
    return taken.to(device=rows.device, dtype=dtype)


def working_dtype(*matrices: Tensor | npt.NDArray[Any]) -> torch.dtype:
    """float64 if any of them is (or is of 32/64-bit integers), else float32."""

    def wide(matrix: Tensor | npt.NDArray[Any]) -> bool:
        if isinstance(matrix, Tensor):
            integer = not matrix.is_floating_point()
        else:
            integer = matrix.dtype.kind in "iu"
        itemsize = matrix.element_size() if isinstance(matrix, Tensor) else matrix.itemsize
        return itemsize > 4 or (integer and itemsize > 2)

    return torch.float64 if any(wide(matrix) for matrix in matrices) else torch.float32


def check_finite(name: str, rows: Tensor) -> None:
    """Refuse NaN and infinite values, and say how many rows have them.

    Raises:
        ValueError: at least one row isn't finite.
    """
    # the extremes of a row show its NaNs and infinities without a mask as large as the matrix
    finite = torch.isfinite(rows.amax(dim=1)) & torch.isfinite(rows.amin(dim=1))
    bad = int((~finite).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(rows)} rows hold NaN or infinite values; check the weights "
            "and the images that these rows came from"
        )


def check_no_nan(name: str, matrix: Tensor | npt.NDArray[Any]) -> None:
    """Refuse NaN, and say how many rows have one.

    Raises:
        ValueError: at least one row has a NaN.
    """
    if isinstance(matrix, Tensor):
        bad = int(matrix.amax(dim=1).isnan().sum())
    else:
        bad = int(np.isnan(matrix.max(axis=1)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {len(matrix)} rows hold NaN")


def encode_ids(name: str, query: Any, gallery: Any, sizes: tuple[int, int]) -> tuple[Codes, Codes]:
    """Map the ids of query and gallery to 0, 1, 2, ... in common; any integers will do.

    Camera ids may be strings too.

    Raises:
        ValueError: an id list isn't 1-D, has the wrong length, or isn't made of integers.
    """
    q_ids = _as_ids(f"q_{name}", query, sizes[0])
    g_ids = _as_ids(f"g_{name}", gallery, sizes[1])
    if (q_ids.dtype.kind == "U") != (g_ids.dtype.kind == "U"):
        raise ValueError(f"q_{name} and g_{name} must both be integers or both be strings")
    _, codes = np.unique(np.concatenate([q_ids, g_ids]), return_inverse=True)
    codes = codes.reshape(-1).astype(np.int64)
    return codes[: len(q_ids)], codes[len(q_ids) :]


def _as_ids(name: str, values: Any, length: int) -> npt.NDArray[Any]:
    ids = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {ids.shape}")
    if len(ids) != length:
        raise ValueError(f"{name} has {len(ids)} ids for {length} rows")
    strings_allowed = name.endswith("camids")
    if ids.dtype.kind not in ("iuU" if strings_allowed else "iu"):
        allowed = "integers or strings" if strings_allowed else "integers"
        raise ValueError(f"{name} must be {allowed}, got dtype {ids.dtype}")
    return ids
