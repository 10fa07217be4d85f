"""What a run's checkpoints are compared by, and weights read from them.

The files themselves are :mod:`embae_plugin.models.bundle`'s.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from embae_plugin.models.bundle import VERSION, load_checkpoint, save_checkpoint
from embae_plugin.models.weight_files import FORMAT, bare_state, check_weights, read_file

__all__ = [
    "FORMAT",
    "VERSION",
    "check_identity",
    "load_checkpoint",
    "load_weights",
    "read_file",
    "save_checkpoint",
    "state_fingerprint",
]

logger = logging.getLogger(__name__)


def changed_settings(
    then: Mapping[str, Any], now: Mapping[str, Any], shown: Callable[[Any], str] = str
) -> str:
    """A line for each setting that differs, with its value then and now; "" if none does."""

    def value(settings: Mapping[str, Any], key: str) -> str:
        return shown(settings[key]) if key in settings else "(absent)"

    return "\n".join(
        f"  {key}: {value(then, key)} then, {value(now, key)} now"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    )


def check_identity(path: str | Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on from a run with other settings, naming what differs.

    Raises:
        ValueError: lists each setting, its value then and now.
    """
    changed = changed_settings(saved, now, repr)
    if changed:
        raise ValueError(
            f"{path} comes from a run with other settings:\n{changed}\n"
            "choose another data.save_dir, or remove that file to start this stage again"
        )


def state_fingerprint(module: nn.Module) -> str:
    """A name for a module's weights: a hash over names and bytes."""
    total = hashlib.blake2b(digest_size=12)
    for name, value in module.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()


def _check_spec(path: str | Path, payload: Any, model: nn.Module) -> None:
    """Refuses another trunk or order of layers, which weights of the same shapes would not show."""
    theirs = payload.get("spec") if isinstance(payload, dict) else None
    spec = getattr(model, "spec", None)
    if not isinstance(theirs, dict) or not callable(spec):
        return
    mine = spec()
    for key, setting in (("trunk", "embae.trunk"), ("order", "embae.head_order")):
        if theirs.get(key) != mine.get(key):
            raise ValueError(
                f"{path} belongs to another model: its {setting} is {theirs.get(key)}, this run's "
                f"is {mine.get(key)}"
            )


def load_weights(model: nn.Module, path: str | Path, parts: Sequence[str] = ()) -> None:
    """Loads weights from an EmbAE or a torchreid checkpoint, or a bare state dict.

    Args:
        parts: load only these children (``trunk``, ``f_emb``, …); empty for the whole model.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_file` and :func:`bare_state`; also where
            names or shapes differ, and for values that are no weights, NaN or infinite.
    """
    payload = read_file(path)
    _check_spec(path, payload, model)
    state = bare_state(path, payload)
    own = model.state_dict()
    if parts:
        state = {key: value for key, value in state.items() if key.split(".")[0] in parts}
        own = {key: value for key, value in own.items() if key.split(".")[0] in parts}
    held = {key.split(".")[0] for key in own}
    wrong = [f"no {part} in this model" for part in parts if part not in held]
    wrong += [f"missing {key}" for key in own if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    check_weights(path, state, own)
    wrong += [
        f"{key} is {tuple(state[key].shape)}, the model's is {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{path} belongs to another model: {'; '.join(wrong[:5])}{more}. Give the model.name, "
            "embae.trunk and embae dimensions it was trained with"
        )
    model.load_state_dict(state, strict=not parts)
    logger.info("weights loaded from %s", path)
