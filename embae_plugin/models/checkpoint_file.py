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
from embae_plugin.models.weight_files import read_file

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
        FileNotFoundError, ValueError: see :func:`read_file`; also another kind or version of file.
    """
    payload = read_file(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not an EmbAE checkpoint")
    check_version(path, payload)
    return payload


def check_version(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Raises ValueError for a checkpoint that another release wrote in another way."""
    version = payload.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise ValueError(
            f"{path} was written in checkpoint version {version}; this release "
            f"reads version {VERSION}. Use the release that wrote it"
        )
