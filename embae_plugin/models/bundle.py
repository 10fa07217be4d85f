"""Checkpoint files, and a model with all that is needed to use it, as they hold it.

A checkpoint holds plain values and tensors only, so that it loads with ``weights_only=True`` and
a manipulated file cannot run code. It is written under a temporary name, flushed to the disk and
renamed: a reader, or a restart after a crash, sees the old one or the new one, never half.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from embae_plugin.atomic_file import replacing
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.weight_files import FORMAT, check_weights, few, not_finite, read_file

VERSION = 1
ADAPTED = "adapted.pth"  # what `embae adapt` writes last into its folder
STAGE = "last.pth"  # what a stage of `embae train` writes into its own


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Writes ``payload`` to ``path`` atomically (temporary name, fsync, rename)."""
    path = Path(path)
    try:
        with replacing(path) as draft, draft.open("wb") as stream:
            torch.save({"format": FORMAT, "version": VERSION, **payload}, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(f"cannot write the checkpoint {path}: {error}; the one before it, if any, is "
                      "untouched. Free some space, or name another folder with "
                      "data.save_dir") from error


def load_checkpoint(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """An EmbAE checkpoint as saved by :func:`save_checkpoint`; ``mapped`` as in :func:`read_file`.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_file`; also another kind or version of file.
    """
    payload = read_file(path, mapped)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not an EmbAE checkpoint")
    check_version(path, payload)
    return payload


def check_version(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Raises ValueError for a checkpoint that another release wrote in another way."""
    version = payload.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise ValueError(f"{path} was written in checkpoint version {version}; this release reads "
                         f"version {VERSION}. Use the release that wrote it")


@dataclass
class Bundle:
    """A model ready for use.

    Attributes:
        model: in eval mode, on the CPU.
        input: what it takes.
        about: plain values: where it comes from.
    """

    model: EmbAE
    input: InputSpec
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The cameras that the model has statistics of."""
        return self.model.camera_names


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that ``path`` means: itself, or the one in that folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a folder of several stages, of which one must be named.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"checkpoint {path} does not exist")
        return path
    for name in (ADAPTED, STAGE):
        if (path / name).is_file():
            return path / name
    if stages := sorted(str(found.parent) for found in path.glob(f"*/{STAGE}")):
        raise ValueError(f"{path} holds several stages; name one of them: {', '.join(stages)}")
    raise FileNotFoundError(
        f"{path} holds neither {ADAPTED} (of embae adapt) nor {STAGE} (of a stage of embae train)"
    )


def _input_of(path: Path, saved: Any, trunk: Any, height: int, width: int) -> InputSpec:
    """The saved input, with the size replaced where one is given."""
    known = saved if isinstance(saved, Mapping) else {}
    tall, wide = height or known.get("height", 0), width or known.get("width", 0)
    if any(isinstance(side, int) and not side for side in (tall, wide)):
        raise ValueError(f"{path} was written by a release that did not keep the size of the "
                         "network's input: pass --height and --width as in its training "
                         "(data.height and data.width; the paper's are 256 and 128)")
    mean = known.get("norm_mean", trunk.norm_mean)
    try:
        return InputSpec.make(tall, wide, mean, known.get("norm_std", trunk.norm_std))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _build(path: Path, spec: dict[str, Any], saved: dict[Any, Any]) -> EmbAE:
    """The model of a spec with its weights."""
    try:
        model = EmbAE.from_spec(spec)
    except (ValueError, RuntimeError, TypeError) as error:  # torch's, of sizes beyond memory
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"{path}: no model can be built as it says: {reason}") from None
    state = {str(key): value for key, value in saved.items()}
    check_weights(path, state, model.state_dict())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: its weights are not those of its model: {reason}") from None
    return model.eval()


def bundle_of(path: Path, payload: dict[str, Any], height: int = 0, width: int = 0) -> Bundle:
    """The model in an EmbAE checkpoint, of `embae adapt` or of a stage of `embae train`.

    Args:
        path: of the file, for messages.
        payload: what it holds.
        height, width: of the input in pixels, for checkpoints that do not say; 0 takes theirs.

    Raises:
        ValueError: no model, a damaged one, with weights that are no numbers, of another version,
            of a stage that was not finished, or without a size and none given.
    """
    check_version(path, payload)
    if not isinstance(payload.get("spec"), dict) or not isinstance(payload.get("model"), dict):
        raise ValueError(f"{path} holds no model")
    if payload.get("done", True) is not True:
        raise ValueError(f"{path} is of a stage that was not finished: give the command that wrote "
                         "it again, it goes on where it stopped")
    model = _build(path, _with_names(payload), payload["model"])
    spec = _input_of(path, payload.get("input"), model.trunk, height, width)
    about = payload.get("about")
    known = isinstance(about, dict) and about
    return Bundle(model, spec, dict(known or {"stage": str(payload.get("stage", ""))}))


def _with_names(payload: dict[str, Any]) -> dict[str, Any]:
    """A model's spec, with the names of cameras that earlier releases kept elsewhere, or not."""
    spec = dict(payload["spec"])
    count = spec.get("cameras", 0)
    if not count or "camera_names" in spec or not isinstance(count, int):
        return spec
    identity = payload.get("identity")
    target = identity.get("target", "") if isinstance(identity, dict) else ""
    numbers = [f"{target}:{n}" if target else str(n) for n in range(count)]
    return {**spec, "camera_names": payload.get("camera_names") or numbers}


def save_bundle(path: str | Path, bundle: Bundle) -> None:
    """Writes a bundle atomically; :func:`open_model` reads it.

    Raises:
        ValueError: a weight is NaN or infinite; nothing is written.
        OSError: it cannot be written; a file that was there is untouched.
    """
    state = {key: value.cpu() for key, value in bundle.model.state_dict().items()}
    if broken := not_finite(state):
        raise ValueError(f"{path} was not written: the model's training has failed, its weights "
                         f"{few(broken)} are NaN or infinite")
    payload = {
        "stage": "adapted",
        "done": True,
        "spec": bundle.model.spec(),
        "model": state,
        "input": bundle.input.as_dict(),
        "about": dict(bundle.about),
    }
    save_checkpoint(path, payload)
