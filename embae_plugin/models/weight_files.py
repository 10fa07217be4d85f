"""Reads weight files: the one place that opens a file of weights or a checkpoint.

Torch files in both formats (legacy and zip) and ``.safetensors`` are read, always without running
code (``weights_only=True``). numpy scalars, which torchreid's checkpoints hold beside the weights,
are read whichever numpy wrote them and whichever is installed.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

FORMAT = "embae-checkpoint"  # what EmbAE's own files say they are
_MOST_UNPACKED = 16  # times a file's size: weights are hardly compressible
_DEEPEST = 8  # holders within holders

# Where files keep the weights: torchreid and Lightning, EmbAE and fast-reid, PyTorch's tutorials.
_HOLDERS = ("state_dict", "model", "model_state_dict")
# What torch's own wrappers put before each name: DataParallel and its kind, torch.compile.
_WRAPPERS = re.compile(r"((module|_orig_mod)\.)*")

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_COUNTING = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}
_LOCK = threading.Lock()  # torch keeps the allowed names in one list for all threads


def read_file(path: str | Path, mapped: bool = False) -> Any:
    """Everything in a weight file or checkpoint, on the CPU: plain values and tensors.

    Args:
        mapped: tensors are read from the disk when they are looked at.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: it may not be read.
        ValueError: a folder, a damaged file, one of another kind, or one that could run code;
            nothing of it was run.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the weight file in it")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if mapped:
            return _load(path, mapped)
        _check_archive(path)
        content = _load(path, mapped)
        _check_tensors(path, content)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            _check_sums(path)
        return content
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:  # torch's own message advises to switch its protection off
            raise ValueError(f"{path} is damaged or no checkpoint; it was not loaded") from None
        raise ValueError(f"{path} holds Python objects besides weights ({found[1]}); it was not "
                         "loaded, because such a file can run any code. Save the network's "
                         "state_dict() alone") from None
    except PermissionError:
        raise PermissionError(f"no permission to read the checkpoint {path}") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file leads torch.load to
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript program; name the checkpoint that it was made from"
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is cut short, damaged, or no checkpoint ({reason})") from None


def _load(path: Path, mapped: bool) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True, "mmap": mapped}
    with _LOCK, _numpy_scalars_allowed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of them becomes an error
        try:
            return torch.load(path, **options)
        except UnicodeDecodeError:  # written by Python 2, whose strings hold a scalar's bytes
            return torch.load(path, **options, encoding="latin1")


def _check_archive(path: Path) -> None:
    """Refuses an archive that says it unpacks to far more than weights would."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _MOST_UNPACKED * path.stat().st_size:
        raise ValueError(f"it says that it unpacks to {unpacked:,} bytes")


def _check_sums(path: Path) -> None:
    """Refuses an archive in which a bit has changed; torch does not look at the checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f"{broken} in it has changed since it was written")


def _check_tensors(path: Path, content: Any) -> None:
    """Refuses tensors that say they hold more numbers than the file does.

    torch sets memory aside for such a tensor, which costs nothing until it is looked at.
    """
    most, seen, left = _MOST_UNPACKED * path.stat().st_size, set(), [content]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            size = value.numel() * value.element_size()
            if value.layout == torch.strided and not value.is_nested:
                size = max(size, value.untyped_storage().nbytes())
            if size > most and value.device.type == "cpu":
                raise ValueError(f"it says that it holds a tensor of {size:,} bytes")
        elif isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            left += value


def _numpy_scalars_allowed() -> Any:
    """Allows what a numpy scalar is read by, under the names of numpy 1 and of numpy 2."""
    rebuild = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    codes = "?US" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
    kinds = {type(np.dtype(code)) for code in codes}
    needed: list[Any] = [*((rebuild, name) for name in names), np.dtype, *kinds]
    # What is allowed already must stay so, and torch takes away at the end all that it is given.
    already = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([one for one in needed if one not in already])


def read_state(path: str | Path) -> State:
    """The weights in a file by their bare names, with or without a classifier, on the CPU.

    Raises:
        FileNotFoundError, PermissionError, ValueError: see :func:`read_file`; also a file without
            the weights of a network, or with NaN or infinite ones.
    """
    state = bare_state(path, read_file(path))
    check_weights(path, state)
    return state


def bare_state(path: str | Path, content: Any) -> dict[str, Any]:
    """The state dict in what :func:`read_file` returned; its values are not looked at.

    It may be the whole content, or lie in it under ``state_dict``, ``model``,
    ``model_state_dict``, or, if nothing else there holds tensors, under any name. What
    DataParallel and torch.compile put before names is dropped.

    Args:
        path: for the message.
        content: of the file.

    Raises:
        ValueError: there is none, or a weight is there twice.
    """
    state = _held(content)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds no weights but a {type(state).__name__}")
    if not state:
        raise ValueError(f"{path} holds no weights: it is empty")
    if "param_groups" in state:
        raise ValueError(f"{path} holds no weights but the state of an optimizer")
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no weights, only {few(map(str, state))}")
    bare = {_WRAPPERS.sub("", str(key), count=1): value for key, value in state.items()}
    if len(bare) < len(state):
        raise ValueError(f"{path} holds weights twice, with and without 'module.' before the name")
    return bare


def _held(content: Any) -> Any:
    """The innermost state dict; what is no such dict where there is none."""
    for _ in range(_DEEPEST):  # a dict may hold itself
        if not isinstance(content, Mapping):
            break
        inner = [key for key in _HOLDERS if isinstance(content.get(key), Mapping)]
        tensors = [isinstance(value, torch.Tensor) for value in content.values()]
        if not inner and not any(tensors):
            states = [
                key for key, value in content.items() if isinstance(value, Mapping)
                and value and all(isinstance(one, torch.Tensor) for one in value.values())
            ]
            inner = states if len(states) == 1 else []
        if not inner:
            break
        content = content[inner[0]]
    return content


def check_weights(
    path: str | Path, state: Mapping[str, Any], own: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Refuses values that are no dense tensors of the right kind of numbers, NaN or infinite.

    Args:
        path: where ``state`` comes from.
        state: what the file holds under each name.
        own: the model's state dict: a weight is of the kind (whole numbers or not) that it has
            there, and names that it lacks are passed over; None takes both kinds.

    Raises:
        ValueError: names the first such values.
    """
    values = {key: value for key, value in state.items() if own is None or key in own}
    odd = [key for key, value in values.items() if not _is_weight(value, own[key] if own else None)]
    if odd:
        raise ValueError(f"{path} holds something else than weights under {few(odd)}: a weight is "
                         "a dense tensor of real numbers")
    if broken := not_finite(values):
        raise ValueError(f"{path} holds NaN or infinite weights: {few(broken)}. Training had "
                         "failed when it was written; take an earlier one")


def _is_weight(value: Any, like: torch.Tensor | None) -> bool:
    kinds = _FLOATING | _COUNTING
    if like is not None:
        kinds = _FLOATING if like.is_floating_point() else _COUNTING
    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested
        and value.device.type == "cpu" and value.dtype in kinds
    )


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of weights that are NaN or infinite, or hold such a number."""
    numbers = {k: v for k, v in state.items() if v.is_floating_point() and v.numel()}
    # The least and the largest number are both NaN where one is.
    return [k for k, v in numbers.items() if not all(end.isfinite() for end in v.aminmax())]


def shapes_of(state: Mapping[str, torch.Tensor]) -> Shapes:
    """Name and shape of each tensor, without the counters of batch norm.

    Batch norm counts its batches since PyTorch 0.4.1 alone, and nothing here reads the count.
    """
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def misfit(own: Shapes, theirs: Shapes) -> str:
    """How the weights ``theirs`` differ from those of a network, ``own``; "" if they don't."""
    both = own.keys() & theirs.keys()
    kinds = {
        "missing": [key for key in own if key not in both],
        "unexpected": [key for key in theirs if key not in both],
        "of another shape": [f"{key} {theirs[key]} instead of {own[key]}" for key in own
                             if key in both and own[key] != theirs[key]],
    }
    return "; ".join(f"{len(keys)} {kind} ({few(keys)})" for kind, keys in kinds.items() if keys)


def load_exactly(
    net: nn.Module, state: State, behind: Sequence[str], trunk: str, path: str | Path
) -> None:
    """Loads ``state`` into ``net``, all of it but what is behind the pooling.

    Args:
        behind: names of layers behind the pooling, whose weights may be left over.
        trunk, path: its name and the file's, for the message.

    Raises:
        ValueError: the weights are another network's; says what does not fit.
    """
    own = net.state_dict()
    ignored = tuple(f"{layer}." for layer in behind)
    kept = {k: v for k, v in state.items() if k in own or not k.startswith(ignored)}
    problems = misfit(shapes_of(own), shapes_of(kept))
    if problems:
        raise ValueError(f"the weights in {path} do not fit the trunk '{trunk}': {problems}. "
                         "Choose the trunk they belong to with embae.trunk, or another file with "
                         "embae.trunk_weights")
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def few(names: Iterable[str], limit: int = 4) -> str:
    """The first of ``names``, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
