"""Checkpoint files: whole or absent, and holding nothing that could run code.

A checkpoint holds plain values and tensors only, so that it loads with ``weights_only=True`` and
a manipulated file cannot run code. It is written under a temporary name, flushed to the disk and
renamed: a reader, or a restart after a crash, sees the old one or the new one, never half.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from embae_plugin.atomic_file import replacing
from embae_plugin.models.trunk_weights import numpy_scalar_types

FORMAT = "embae-checkpoint"
VERSION = 1


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Writes ``payload`` to ``path`` atomically (temporary name, fsync, rename)."""
    path = Path(path)
    try:
        with replacing(path) as draft, draft.open("wb") as stream:
            torch.save({"format": FORMAT, "version": VERSION, **payload}, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"cannot write the checkpoint {path}: {error}; the one before it, if any, is "
            "untouched. Free some space, or name another folder with data.save_dir"
        ) from error


def read_file(path: str | Path) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``, with errors a user can act on.

    Torchreid's checkpoints load too (their numpy scalars are allowed by name).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a torch file, cut short, or holding objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        with torch.serialization.safe_globals(numpy_scalar_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ValueError(
                f"{path} holds Python objects besides weights; it was not loaded, because such a "
                "file can run any code"
            ) from None
        # torch's own message advises to switch its protection off
        raise ValueError(f"{path} is damaged or no checkpoint; it was not loaded") from None
    except PermissionError:
        raise PermissionError(f"no permission to read the checkpoint {path}") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file leads torch.load to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is cut short, damaged, or no checkpoint ({reason})") from None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """An EmbAE checkpoint as saved by :func:`save_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_file`; also a file of another kind or of a
            later version.
    """
    payload = read_file(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not an EmbAE checkpoint")
    version = payload.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise ValueError(
            f"{path} was written in checkpoint version {version}; this release "
            f"reads version {VERSION}. Use the release that wrote it"
        )
    return payload


_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTING = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def check_kinds(path: str | Path, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuses values of ``state`` that are no dense tensors of the model's kind of numbers.

    Args:
        path: where ``state`` comes from.
        state: what the file holds under each name.
        own: the model's state dict; names that are in one of the two only are passed over.

    Raises:
        ValueError: names the first such values.
    """
    odd = [
        key for key, mine in own.items()
        if key in state and not _is_dense(state[key], mine.is_floating_point())
    ]  # fmt: skip
    if odd:
        raise ValueError(
            f"{path} holds something else than weights under {', '.join(odd[:5])}: a weight is a "
            "dense tensor of real numbers"
        )


def _is_dense(value: Any, floating: bool) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
        and value.dtype in (_FLOATING if floating else _COUNTING)
    )


def check_finite(path: str | Path, state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuses weights that are no numbers.

    Raises:
        ValueError: names the first of them.
    """
    broken = [key for key in names if not bool(torch.isfinite(state[key]).all())]
    if broken:
        raise ValueError(f"{path} holds NaN or infinite weights: {', '.join(broken[:5])}. Training "
                         "had failed when it was written; take an earlier one")  # fmt: skip
