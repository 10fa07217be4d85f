"""Finds torchreid, of either layout, and hands out its parts.

Two torchreids are in use: version 0.2.5 of PyPI, with everything below ``torchreid.reid``, and
1.4.0 of GitHub (KaiyangZhou/deep-person-reid), with everything below ``torchreid``.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

logger = logging.getLogger("embae_plugin.torchreid_bridge")

_INSTALL = (
    "install 0.2.5 from PyPI (pip install torchreid==0.2.5) or 1.4.0 from GitHub "
    "(pip install git+https://github.com/KaiyangZhou/deep-person-reid)"
)


def _find_torchreid() -> tuple[ModuleType, str]:
    """Import torchreid and tell its layout, "pypi" or "github"."""
    try:
        with warnings.catch_warnings():  # its evaluator is not used, nor is its Cython version
            warnings.filterwarnings("ignore", message="Cython evaluation")
            package = importlib.import_module("torchreid")
    except ModuleNotFoundError as error:
        if error.name == "torchreid":
            raise ImportError(f"torchreid is not installed: {_INSTALL}") from error
        raise ImportError(
            f"torchreid is installed, but the module '{error.name}' that it needs (and does not "
            f"declare as a dependency) is not: pip install {error.name}"
        ) from error
    layout = "pypi" if hasattr(package, "reid") else "github"
    version = getattr(package, "__version__", "unknown")
    if version != {"pypi": "0.2.5", "github": "1.4.0"}[layout]:
        raise ImportError(f"torchreid {version} at {package.__path__[0]} is not supported by "
                          f"embae_plugin: {_INSTALL}")
    return package, layout


_torchreid, LAYOUT = _find_torchreid()
VERSION: str = _torchreid.__version__
LOCATION: str = str(Path(str(_torchreid.__file__)).parent)
_BASE = "torchreid.reid" if LAYOUT == "pypi" else "torchreid"


def module(name: str) -> ModuleType:
    """A part of torchreid, wherever it lies in this layout."""
    return importlib.import_module(f"{_BASE}.{name}")


models, losses, engines = module("models"), module("losses"), module("engine")
datasets, samplers = module("data.datasets"), module("data.sampler")
datamanagers = module("data.datamanager")
metrics, optim, utils = module("metrics"), module("optim"), module("utils")


@contextmanager
def quiet() -> Iterator[None]:
    """Send what a block prints to the bridge's logger, line by line, at DEBUG, when it ends."""
    heard = io.StringIO()
    try:
        with redirect_stdout(heard):
            yield
    finally:
        for line in filter(str.strip, heard.getvalue().splitlines()):
            logger.debug("%s", line.rstrip())
