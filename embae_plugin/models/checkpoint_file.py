"""Checkpoint files: whole or absent, and holding nothing that could run code.

A checkpoint holds plain values and tensors only, so that it loads with ``weights_only=True`` and
a manipulated file cannot run code. It is written under a temporary name, flushed to the disk and
renamed: a reader, or a restart after a crash, sees the old one or the new one, never half.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from embae_plugin.atomic_file import replacing
from embae_plugin.models.weight_files import COUNTING, FLOATING, check_finite, is_weight, read_file

__all__ = [
    "FORMAT",
    "VERSION",
    "check_finite",
    "check_kinds",
    "load_checkpoint",
    "read_file",
    "save_checkpoint",
]

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


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """An EmbAE checkpoint as saved by :func:`save_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_file`; also a file of another kind or of a
            later version.
    """
    payload = read_file(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not an EmbAE checkpoint")
    check_version(path, payload)
    return payload


def check_version(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Refuses an EmbAE checkpoint that another release wrote in another way.

    Raises:
        ValueError: says which version it is.
    """
    version = payload.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise ValueError(
            f"{path} was written in checkpoint version {version}; this release "
            f"reads version {VERSION}. Use the release that wrote it"
        )


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
        if key in state and not is_weight(state[key], _kinds_like(mine))
    ]  # fmt: skip
    if odd:
        raise ValueError(
            f"{path} holds something else than weights under {', '.join(odd[:5])}: a weight is a "
            "dense tensor of real numbers"
        )


def _kinds_like(own: torch.Tensor) -> tuple[torch.dtype, ...]:
    return FLOATING if own.is_floating_point() else COUNTING
