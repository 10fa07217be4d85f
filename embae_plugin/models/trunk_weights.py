"""Weight files for trunks: reading them safely, recognising them, checking that they fit."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


def read_weights(path: str | Path) -> State:
    """The tensors of a weight file by name, on the CPU.

    Reads ``.safetensors`` and torch files: a state dict, or a checkpoint with one under
    ``state_dict`` (torchreid's) or ``model``. A leading ``module.`` is dropped from the names. No
    code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a weight file, is damaged, or holds objects other than weights.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"trunk weights {path} is a folder; name the weight file in it")
    if not path.exists():
        raise FileNotFoundError(
            f"trunk weights {path} do not exist; embae.trunk_weights is a weight file, 'imagenet' "
            "or empty for random weights"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"trunk weights {path} hold no weights but a {type(content).__name__}")
    wrong = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ValueError(
            f"trunk weights {path} hold entries that are no tensors: {_few(map(str, wrong))}; "
            "a state dict is expected, alone or under 'state_dict'"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"trunk weights {path} are damaged or cut short: {error}") from error


def _read_torch(path: Path) -> Any:
    path.open("rb").close()  # a file that may not be read is not a damaged one
    try:
        with torch.serialization.safe_globals(numpy_scalar_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"trunk weights {path} hold Python objects other than weights, or are no torch file; "
            f"nothing of it was run ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"trunk weights {path} are damaged or cut short ({_first_line(error)}); fetch the "
            "file again"
        ) from error


def numpy_scalar_types() -> list[Any]:
    """What torchreid's checkpoints hold beside tensors: a rank-1 as a numpy scalar."""
    core = getattr(np, "_core", None) or np.core
    kinds = [type(np.dtype(kind)) for kind in ("float32", "float64", "int64")]
    return [core.multiarray.scalar, np.dtype, *kinds]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- MobileNet V1 of TF-slim ------------------------------------------------------------------

_SLIM_KEY = re.compile(r"features\.(\d+)\.([0134])\.(\w+)")
_BLOCKS_OF_STAGE = (1, 2, 2, 6, 2)
_PLACES = [f"{s}.{b}" for s, blocks in enumerate(_BLOCKS_OF_STAGE) for b in range(blocks)]
_LAYERS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}


def is_tf_slim(state: State) -> bool:
    """Whether these are names of the MobileNet V1 converted from TF-slim.

    There ``features.0`` is the stem and ``features.1`` to ``features.13`` are depthwise
    convolution (0), batch norm (1), pointwise convolution (3) and batch norm (4).
    """
    return "features.0.0.weight" in state and "features.1.3.weight" in state


def from_tf_slim(state: State) -> State:
    """TF-slim's names turned into those of timm's MobileNet V1; others are left alone."""
    renamed: State = {}
    for key, value in state.items():
        match = _SLIM_KEY.fullmatch(key)
        if match is not None and int(match[1]) <= len(_PLACES):
            number = int(match[1])
            if number:
                key = f"blocks.{_PLACES[number - 1]}.{_LAYERS[match[2]]}.{match[3]}"
            else:
                key = f"{'conv_stem' if match[2] == '0' else 'bn1'}.{match[3]}"
        renamed[key] = value
    return renamed


# --- loading ----------------------------------------------------------------------------------


def load_exactly(
    net: nn.Module, state: State, ignored: Sequence[str], trunk: str, path: str | Path
) -> None:
    """Loads ``state`` into ``net``, all of it but what is behind the pooling.

    Args:
        net: of the trunk.
        state: from :func:`read_weights`.
        ignored: first parts of names that may be left over, such as ``classifier``.
        trunk: name of the trunk, for the message.
        path: of the file, for the message.

    Raises:
        ValueError: the weights are another network's; names some missing, unexpected and
            mis-shaped entries.
    """
    own = net.state_dict()
    # Batch norm counts its batches only since PyTorch 0.4.1, and nothing here reads the count.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own and not k.startswith(tuple(ignored))]
    shaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    problems = [
        f"{len(keys)} {kind} ({_few(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if shaped:
        shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in shaped]
        problems.append(f"{len(shaped)} of another shape ({_few(shapes)})")
    if problems:
        raise ValueError(
            f"the weights in {path} do not fit the trunk '{trunk}': {'; '.join(problems)}. Choose "
            "the trunk they belong to with embae.trunk, or another file with embae.trunk_weights"
        )
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def _few(names: Any, limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
