"""Finds the configuration files that come with the package, and reads yaml of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).parents[1]
MOST_VALUES = 100_000  # in a file, each counted as often as an alias repeats it


def config_folder() -> Path:
    """``configs/``: inside an installed package, beside it in a source checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str) -> Path:
    """A yaml file by its path, or one of the package's own by its name.

    ``synthetic``, ``synthetic.yaml`` and ``configs/synthetic.yaml`` all name the built-in file
    where no such path exists.

    Raises:
        FileNotFoundError: neither is there; lists the built-in ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    builtin = config_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if builtin.is_file():
        return builtin
    names = ", ".join(sorted(p.name for p in config_folder().glob("*.yaml")))
    raise FileNotFoundError(f"configuration file {name} does not exist; built in are {names}")


def read_yaml(path: Path) -> Any:
    """What a yaml file holds: plain values alone, no code is run.

    Raises:
        ValueError: it cannot be read, is no yaml, or holds more values than any configuration.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # yaml's own, and whatever impossible numbers and dates lead it to
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a readable yaml file ({reason})") from None
    left, count = [content], 0
    while left:
        value, count = left.pop(), count + 1
        if count > MOST_VALUES:
            raise ValueError(f"{path}: not a readable yaml file (more than {MOST_VALUES:,} values)")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple, set)):
            left += value
    return content
