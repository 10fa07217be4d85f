"""Finds the configuration files that come with the package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


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
