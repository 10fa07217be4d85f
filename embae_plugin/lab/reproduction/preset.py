"""A preset: on which data and with which settings the paper's tables are run.

A preset is a small yaml file, ``configs/reproduce_NAME.yaml`` or anybody's own::

    about: one line
    base: embae.yaml          # the training configuration that every table starts from
    seeds: 3                  # a number, or a list of seeds
    settings:                 # keys of the training configuration, for all tables
      embae.pul.clusters: 750
    pul:                      # keys for PUL's runs alone, which are then runs of their own with
      embae.pul.base: softmax # another network; without this, PUL starts from stage 1's embedding
    tables:                   # any of base, sources, target and settings, for one table
      1: {sources: [cuhk01], target: market1501}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.lab.reproduction.published import TABLES
from embae_plugin.settings.config import load_config
from embae_plugin.settings.files import config_folder, read_yaml
from embae_plugin.suggestions import did_you_mean

PREFIX = "reproduce_"
MOST_SEEDS = 1000
_KEYS = {"about": str, "base": str, "seeds": object, "settings": dict, "pul": dict, "tables": dict}
_TABLE_KEYS = {"base": str, "sources": list, "target": str, "settings": dict}
_NAMES: dict[type, str] = {str: "text", list: "a list", dict: "'key: value' pairs"}


@dataclass(frozen=True)
class Preset:
    """A checked preset; see the module for the keys."""

    name: str  # of the file, without reproduce_ and .yaml
    path: Path
    about: str
    base: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    pul: Mapping[str, Any]  # empty: PUL is run beside EmbAE, on the same embedding
    tables: Mapping[int, Mapping[str, Any]]

    def config(self, number: int, options: Sequence[str] = (), pul: bool = False) -> CfgNode:
        """The training configuration of a table, or of PUL's own run for it.

        ``options`` are ``key value`` pairs, over all but what the preset says of PUL's run. Raises
        ValueError for a key or value that the configuration does not take.
        """
        table = self.tables[number]
        base = table.get("base") or self.base
        beside = self.path.parent / base
        cfg = load_config(beside if beside.is_file() else base)
        cfg = self._merged(cfg, {**self.settings, **_flat(table.get("settings"))}, "settings")
        cfg.data.sources = [str(name) for name in table.get("sources") or cfg.data.sources]
        cfg.data.targets = [table["target"]] if table.get("target") else cfg.data.targets
        cfg = load_config("", list(options), cfg)
        return self._merged(cfg, self.pul, "pul") if pul else cfg

    def _merged(self, cfg: CfgNode, settings: Mapping[str, Any], key: str) -> CfgNode:
        try:
            return load_config("", [part for item in settings.items() for part in item], cfg)
        except ValueError as error:
            text = str(error).replace("command line", f"{self.path}: {key}", 1)
            raise ValueError(text) from None


def seeds_of(value: Any, where: str) -> tuple[int, ...]:
    """Seeds from a number of them (1, 2, …) or a list of different ones; else ValueError."""
    seeds = list(range(1, min(value, MOST_SEEDS + 1) + 1)) if type(value) is int else value
    good = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not good or not 1 <= len(set(seeds)) == len(seeds) <= MOST_SEEDS:
        raise ValueError(f"{where} is {value!r}; it must be how many seeds, 1 to {MOST_SEEDS}, or "
                         "a list of different whole numbers")
    return tuple(seeds)


def load_preset(name: str) -> Preset:
    """Reads and checks a preset by its path, or one of the package's own by its name.

    Raises FileNotFoundError with the names of those, or ValueError with file, key, and what would
    be right.
    """
    path, folder = Path(name), config_folder()
    if not path.is_file():
        path = folder / f"{PREFIX}{path.name.removesuffix('.yaml').removeprefix(PREFIX)}.yaml"
    if not path.is_file():
        names = sorted(p.stem.removeprefix(PREFIX) for p in folder.glob(f"{PREFIX}*.yaml"))
        raise FileNotFoundError(
            f"preset {name} is no file, and not one of the built-in presets {', '.join(names)}"
        )
    content = _checked(read_yaml(path), str(path), _KEYS)
    tables = content.get("tables")
    if not tables:
        raise ValueError(f"{path}: tables must say what to run, for example 'tables: {{1: "
                         "{sources: [cuhk01], target: market1501}}'")
    for key, table in tables.items():
        if key not in TABLES or isinstance(key, bool):
            raise ValueError(f"{path}: tables: there is no table {key!r}; there are 1, 2, 3 and 4")
        _checked(table, f"{path}: tables: {key}", _TABLE_KEYS)
    return Preset(
        path.stem.removeprefix(PREFIX), path, content.get("about") or "",
        content.get("base") or "embae.yaml", seeds_of(content.get("seeds", 3), f"{path}: seeds"),
        _flat(content.get("settings")), _flat(content.get("pul")), dict(sorted(tables.items())),
    )


def _checked(value: Any, where: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """``value``, which must be a mapping with some of these keys, each of its kind or empty."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must hold keys ({', '.join(kinds)}), not {value!r}")
    for key, inner in value.items():
        if key not in kinds:
            hint = did_you_mean(str(key), list(kinds)) or f" There are {', '.join(kinds)}."
            raise ValueError(f"{where}: there is no key {key!r}.{hint}")
        if inner is not None and not isinstance(inner, kinds[key]):
            raise ValueError(f"{where}: {key} is {inner!r}; it must be {_NAMES[kinds[key]]}")
    return value


def _flat(settings: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """``{train: {lr: 1}}`` and ``{train.lr: 1}`` alike as ``{"train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, inner in (settings or {}).items():
        name = f"{prefix}{key}"
        flat.update(_flat(inner, f"{name}.") if isinstance(inner, dict) else {name: inner})
    return flat
