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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from embae_plugin.lab.reproduction.published import TABLES
from embae_plugin.settings.config import load_config
from embae_plugin.settings.files import config_folder
from embae_plugin.suggestions import did_you_mean

PREFIX = "reproduce_"
MOST_SEEDS = 1000
_KEYS = ("about", "base", "seeds", "settings", "pul", "tables")
_TABLE_KEYS = ("base", "sources", "target", "settings")


@dataclass(frozen=True)
class TableSettings:
    """What one table is run with; ``base`` and an empty ``sources`` or ``target`` as the preset."""

    base: str
    sources: tuple[str, ...] = ()
    target: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A checked preset.

    Attributes:
        name: of the file, without ``reproduce_`` and ``.yaml``.
        path: of the file.
        about: one line on what it is.
        seeds: of the runs.
        pul: keys of the training configuration for PUL's own runs; empty: it has none, and is
            run beside EmbAE, on the same embedding.
        tables: by the paper's number.
    """

    name: str
    path: Path
    about: str
    seeds: tuple[int, ...]
    pul: Mapping[str, Any]
    tables: Mapping[int, TableSettings]

    def config(self, number: int, options: Sequence[str] = (), pul: bool = False) -> CfgNode:
        """The training configuration of a table.

        Args:
            number: of the table.
            options: ``key value`` pairs of the command line, over the preset's settings.
            pul: for PUL's own run; what the preset says of that is over everything.

        Raises:
            ValueError: a key or value that the configuration does not take.
        """
        table = self.tables[number]
        beside = self.path.parent / table.base
        cfg = load_config(beside if beside.is_file() else table.base)
        cfg = self._merged(cfg, table.settings, "settings")
        if table.sources:
            cfg.data.sources = list(table.sources)
        if table.target:
            cfg.data.targets = [table.target]
        cfg = load_config("", list(options), cfg)
        return self._merged(cfg, self.pul, "pul") if pul else cfg

    def _merged(self, cfg: CfgNode, settings: Mapping[str, Any], key: str) -> CfgNode:
        pairs = [part for item in settings.items() for part in item]
        try:
            return load_config("", pairs, cfg)
        except ValueError as error:
            text = str(error).replace("command line", f"{self.path}: {key}", 1)
            raise ValueError(text) from None


def find_preset(name: str) -> Path:
    """A preset by its path, or one of the package's own by its name.

    Raises:
        FileNotFoundError: neither is there; lists the built-in ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    stem = path.name.removesuffix(".yaml").removeprefix(PREFIX)
    builtin = config_folder() / f"{PREFIX}{stem}.yaml"
    if builtin.is_file():
        return builtin
    names = sorted(p.stem.removeprefix(PREFIX) for p in config_folder().glob(f"{PREFIX}*.yaml"))
    raise FileNotFoundError(
        f"preset {name} is no file, and not one of the built-in presets {', '.join(names)}"
    )


def seeds_of(value: Any, where: str) -> tuple[int, ...]:
    """Seeds from a number of them (1, 2, …) or a list.

    Raises:
        ValueError: not that, or a seed twice.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    seeds = list(range(1, min(value, MOST_SEEDS + 1) + 1)) if whole else value
    good = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    if not good or len(set(seeds)) < len(seeds) or len(seeds) > MOST_SEEDS:
        raise ValueError(f"{where} is {value!r}; it must be how many seeds, 1 to {MOST_SEEDS}, or "
                         "a list of different whole numbers")  # fmt: skip
    return tuple(seeds)


def load_preset(name: str) -> Preset:
    """Reads and checks a preset (see the module for its keys).

    Raises:
        FileNotFoundError: there is no such preset.
        ValueError: names the file, the key, and what would be right.
    """
    path = find_preset(name)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable yaml file ({error})") from None
    content = _mapping(loaded, str(path), _KEYS)
    common = _flat(content.get("settings") or {}, f"{path}: settings")
    base = _text(content.get("base", "embae.yaml"), f"{path}: base")
    tables = content.get("tables")
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path}: tables must say what to run, for example 'tables: {{1: "
                         "{sources: [cuhk01], target: market1501}}'")  # fmt: skip
    return Preset(
        name=path.stem.removeprefix(PREFIX),
        path=path,
        about=_text(content.get("about", ""), f"{path}: about"),
        seeds=seeds_of(content.get("seeds", 3), f"{path}: seeds"),
        pul=_flat(content.get("pul") or {}, f"{path}: pul"),
        tables={
            _number(key, path): _table(value, f"{path}: tables: {key}", base, common)
            for key, value in sorted(tables.items(), key=lambda item: str(item[0]))
        },
    )


def _number(key: Any, path: Path) -> int:
    if key not in TABLES or isinstance(key, bool):
        raise ValueError(f"{path}: tables: there is no table {key!r}; there are 1, 2, 3 and 4")
    return int(key)


def _table(value: Any, where: str, base: str, common: Mapping[str, Any]) -> TableSettings:
    content = _mapping(value, where, _TABLE_KEYS)
    sources = content.get("sources") or []
    if not isinstance(sources, list) or not all(isinstance(name, str) for name in sources):
        raise ValueError(f"{where}: sources is {sources!r}; it must be a list of data sets' names")
    return TableSettings(
        base=_text(content.get("base", base), f"{where}: base"),
        sources=tuple(sources),
        target=_text(content.get("target", ""), f"{where}: target"),
        settings={**common, **_flat(content.get("settings") or {}, f"{where}: settings")},
    )


def _mapping(value: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must hold keys ({', '.join(known)}), not {value!r}")
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known) or f" There are {', '.join(known)}."
            raise ValueError(f"{where}: there is no key {key!r}.{hint}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {value!r}; it must be text")
    return value


def _flat(value: Any, where: str, prefix: str = "") -> dict[str, Any]:
    """``{train: {lr: 1}}`` and ``{train.lr: 1}`` alike as ``{"train.lr": 1}``."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be 'key: value' pairs, not {value!r}")
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat.update(_flat(inner, where, f"{name}.") if isinstance(inner, dict) else {name: inner})
    return flat
