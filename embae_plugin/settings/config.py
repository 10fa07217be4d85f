"""The configuration: torchreid's yacs tree plus the node ``embae``, read from files and options.

Unknown keys, values of another type and settings that cannot work are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.settings.checks import check_config
from embae_plugin.settings.files import find_config, read_yaml
from embae_plugin.settings.torchreid_arguments import (
    engine_run_kwargs,
    imagedata_kwargs,
    lr_scheduler_kwargs,
    optimizer_kwargs,
    zoo_kwargs,
)
from embae_plugin.settings.tree import flatten, get_default_config
from embae_plugin.suggestions import did_you_mean

__all__ = [
    "check_config",
    "engine_run_kwargs",
    "flatten",
    "get_default_config",
    "imagedata_kwargs",
    "load_config",
    "lr_scheduler_kwargs",
    "optimizer_kwargs",
    "zoo_kwargs",
]


def _flat_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += _flat_keys(value, f"{name}.") if isinstance(value, CfgNode) else [name]
    return keys


def _refuse_unknown(keys: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in keys:
        if key in known:
            continue
        inside = [name for name in known if name.startswith(f"{key}.")]
        if inside:
            raise ValueError(f"{where}: {key!r} is a section; set a key in it, as {inside[0]}")
        hint = did_you_mean(key, known)
        raise ValueError(f"{where}: there is no configuration key {key!r}.{hint}")


def _like(value: Any, default: Any) -> Any:
    """``value``, an integer where the default is a float as a float: yacs refuses ``lr: 1``."""
    if isinstance(default, float) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass  # yacs names the key and both types
    return value


def _prepare(loaded: CfgNode, cfg: CfgNode) -> None:
    """Makes values fit the tree in place, and drops sections that hold only comments."""
    for key, value in list(loaded.items()):
        default = cfg.get(key)
        if isinstance(default, CfgNode) and value is None:
            del loaded[key]
        elif isinstance(default, CfgNode) and isinstance(value, CfgNode):
            _prepare(value, default)
        else:
            loaded[key] = _like(value, default)


def _refuse_empty(cfg: CfgNode, where: str) -> None:
    empty = [key for key, value in flatten(cfg).items() if value is None]
    if empty:
        raise ValueError(f"{where}: {', '.join(empty)} has no value")


def load_config(
    config_file: str | Path = "", options: Sequence[str] = (), base: CfgNode | None = None
) -> CfgNode:
    """Default tree, then a yaml file, then ``key value`` pairs from the command line.

    Args:
        config_file: a yaml file; ``""`` for none. A key ``_BASE_: other.yaml`` (beside the file,
            or one that comes with the package) is merged first, so that files can stay small.
        options: alternating keys and values, as torchreid's scripts take them.
        base: the tree to start from instead of the defaults.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a key that does not exist, a value of another type, or an odd option list.
    """
    cfg = get_default_config() if base is None else base.clone()
    given = set(options[0::2])
    if config_file:
        given |= _merge_file(cfg, find_config(str(config_file)))
    if len(options) % 2:
        raise ValueError(
            "options after the flags come in pairs 'key value'; the last one, "
            f"{options[-1]!r}, has no value"
        )
    defaults = flatten(cfg)
    _refuse_unknown(options[0::2], list(defaults), "command line")
    pairs = zip(options[0::2], options[1::2], strict=True)
    try:
        cfg.merge_from_list([v for key, text in pairs for v in (key, _like(text, defaults[key]))])
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"command line: {error}") from None
    _refuse_empty(cfg, "command line")
    if base is None and cfg.loss.name == "embae":
        _follow_the_trunk(cfg, given)
    return cfg


def _follow_the_trunk(cfg: CfgNode, given: set[str]) -> None:
    """Leaves the normalisation to the trunk's weights where nothing was said of it."""
    for key in ("norm_mean", "norm_std"):
        if f"data.{key}" not in given:
            cfg.data[key] = []


def _merge_file(cfg: CfgNode, path: Path, seen: tuple[Path, ...] = ()) -> set[str]:
    """Merges a file and what it is based on; returns the keys that were set."""
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path} does not exist")
    if path.resolve() in seen:
        raise ValueError(f"{path}: its _BASE_ files name each other in a circle")
    content = read_yaml(path)  # yacs's own reader runs the code of a file that ends in .py
    try:
        loaded = CfgNode({} if content is None else content)
    except Exception as error:  # yacs asserts, and takes for granted that keys are text
        raise ValueError(f"{path}: not a readable yaml configuration ({error})") from None
    base, given = loaded.pop("_BASE_", ""), set()
    if base:
        beside = path.parent / str(base)
        given = _merge_file(
            cfg, beside if beside.is_file() else find_config(str(base)), (*seen, path.resolve())
        )
    _prepare(loaded, cfg)
    _refuse_unknown(_flat_keys(loaded), _flat_keys(cfg), str(path))
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, KeyError, RecursionError, MemoryError) as error:  # of a deeply nested text
        raise ValueError(f"{path}: {error}") from None
    _refuse_empty(cfg, str(path))
    return given | set(_flat_keys(loaded))
