"""Checks and conversions of what users hand to the evaluators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Codes = npt.NDArray[np.int64]


def as_floating(name: str, values: Any) -> Tensor:
    """Return ``values`` as a detached 2-D tensor of a floating type.

    Floating numpy and torch data are not copied. Integers of 32 and more bits become float64,
    others float32.

    Raises:
        ValueError: it isn't two-dimensional, is empty, or isn't numeric.
    """
    found = values.detach() if isinstance(values, Tensor) else np.asarray(values)
    if found.ndim != 2:
        raise ValueError(f"{name} must be 2-D, got shape {tuple(found.shape)}")
    if 0 in found.shape:
        raise ValueError(f"{name} is empty: shape {tuple(found.shape)}")
    if isinstance(found, Tensor):
        numeric = not found.is_complex() and found.dtype != torch.bool
    else:
        numeric = found.dtype.kind in "fiu"
    if not numeric:
        raise ValueError(f"{name} must hold real numbers, got dtype {found.dtype}")
    if isinstance(found, Tensor):
        wide = torch.float64 if found.element_size() > 2 else torch.float32
        return found if found.is_floating_point() else found.to(wide)
    if found.dtype not in (np.float16, np.float32, np.float64):
        found = found.astype(np.float64 if found.itemsize > 2 else np.float32)
    if any(stride < 0 or stride % found.itemsize for stride in found.strides):
        found = found.copy()  # torch knows no such memory
    with warnings.catch_warnings():  # of arrays that are read-only; nothing writes to them here
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(found)


def take_rows(matrix: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a fresh copy of these rows as ``dtype``, on the device of the index ``rows``."""
    return matrix.index_select(0, rows.to(matrix.device)).to(device=rows.device, dtype=dtype)


def working_dtype(*matrices: Tensor) -> torch.dtype:
    """float64 if any of them is, else float32."""
    wide = any(matrix.dtype == torch.float64 for matrix in matrices)
    return torch.float64 if wide else torch.float32


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


def encode_ids(name: str, query: Any, gallery: Any, sizes: Sequence[int]) -> tuple[Codes, Codes]:
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
    kinds, allowed = "iu", "integers"
    if name.endswith("camids"):
        kinds, allowed = "iuU", "integers or strings"
    if ids.dtype.kind not in kinds:
        raise ValueError(f"{name} must be {allowed}, got dtype {ids.dtype}")
    return ids
