"""Finds torchreid, of either layout, hands out its parts, and registers new ones in its tables.

Two torchreids are in use: version 0.2.5 of PyPI, with everything below ``torchreid.reid``, and
1.4.0 of GitHub (KaiyangZhou/deep-person-reid), with everything below ``torchreid``. Only datasets
have a register function there, which refuses a second call; models, samplers, losses and engines
live in module-level tables. Registering here is idempotent, also after a reload.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from embae_plugin.torchreid_bridge.manager_items import Item

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import ImageDataset

logger = logging.getLogger("embae_plugin.torchreid_bridge")

_INSTALL = (
    "install 0.2.5 from PyPI (pip install torchreid==0.2.5) or 1.4.0 from GitHub "
    "(pip install git+https://github.com/KaiyangZhou/deep-person-reid)"
)
_SUPPORTED = {"pypi": "0.2.5", "github": "1.4.0"}


def _find_torchreid() -> tuple[ModuleType, str]:
    """Import torchreid and tell its layout, "pypi" or "github".

    Raises:
        ImportError: torchreid or one of its undeclared dependencies is missing, or the version
            is not one of the two supported ones.
    """
    try:
        with warnings.catch_warnings():
            # Its evaluator is not used here, nor is its Cython version.
            warnings.filterwarnings("ignore", message="Cython evaluation")
            package = importlib.import_module("torchreid")
    except ModuleNotFoundError as error:
        if error.name == "torchreid":
            raise ImportError(f"torchreid is not installed: {_INSTALL}") from error
        raise ImportError(f"torchreid is installed, but the module '{error.name}' that it needs "
                          "(and does not declare as a dependency) is not: pip install "
                          f"{error.name}") from error
    layout = "pypi" if hasattr(package, "reid") else "github"
    version = getattr(package, "__version__", "unknown")
    if version != _SUPPORTED[layout]:
        where = list(getattr(package, "__path__", [getattr(package, "__file__", "?")]))
        raise ImportError(
            f"torchreid {version} at {where[0]} is not supported by embae_plugin: {_INSTALL}"
        )
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


class _LogLines(io.TextIOBase):
    """A text stream that logs each complete line."""

    def __init__(self, level: int) -> None:
        self.level, self.rest = level, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            logger.log(self.level, "%s", line.rstrip())
        return len(text)


@contextmanager
def quiet(level: int = logging.DEBUG) -> Iterator[None]:
    """Send what a block prints to the bridge's logger, line by line, at ``level``."""
    stream = _LogLines(level)
    try:
        with redirect_stdout(stream):
            yield
    finally:
        stream.write("\n")


def model_table() -> dict[str, Callable[..., nn.Module]]:
    """torchreid's models by name."""
    return cast(dict[str, Callable[..., nn.Module]], vars(models)["__model_factory"])


def dataset_table() -> dict[str, type[ImageDataset]]:
    """torchreid's image datasets by name."""
    return cast("dict[str, type[ImageDataset]]", vars(datasets)["__image_datasets"])


def sampler_table() -> dict[str, Any]:
    """Samplers registered here, kept on the wrapper of torchreid's ``build_train_sampler``.

    torchreid picks a sampler in an if/else, which its data manager imported by name: both names
    are replaced, once.
    """
    build: Any = samplers.build_train_sampler
    if not hasattr(build, "registered"):

        def build_train_sampler(
            data_source: list[Item], train_sampler: str, batch_size: int = 32,
            num_instances: int = 4, num_cams: int = 1, num_datasets: int = 1, **more: Any,
        ) -> Any:
            sizes = {"batch_size": batch_size, "num_instances": num_instances,
                     "num_cams": num_cams, "num_datasets": num_datasets}
            if train_sampler in wrapped.registered:
                return wrapped.registered[train_sampler](data_source, **sizes)
            return build(data_source, train_sampler, **sizes, **more)

        wrapped: Any = build_train_sampler
        wrapped.registered = {}
        for owner in (samplers, datamanagers):
            vars(owner)["build_train_sampler"] = wrapped
    return cast(dict[str, Any], samplers.build_train_sampler.registered)


_TABLES: dict[str, Callable[[], dict[str, Any]]] = {
    "model": model_table,
    "dataset": dataset_table,
    "sampler": sampler_table,
    "loss": lambda: vars(losses),
    "engine": lambda: vars(engines),
}


def register(kind: str, name: str, new: Any) -> None:
    """Makes something known to torchreid by name.

    Registering the same thing (the same object, or one of the same qualified name, as after a
    reload) again is fine.

    Args:
        kind: ``model``, a factory that ``build_model(name, num_classes, loss, pretrained,
            use_gpu)`` calls; ``dataset``, a class for ``ImageDataManager``; ``sampler``, a class
            for its ``train_sampler`` and ``train_sampler_t``, built as ``new(items, batch_size=,
            num_instances=, num_cams=, num_datasets=)``; ``loss`` and ``engine``, classes in
            ``torchreid.losses`` and ``torchreid.engine``.

    Raises:
        ValueError: the name belongs to something else.
    """
    table = _TABLES[kind]()
    old = table.get(name, vars(samplers).get(name, new) if kind == "sampler" else new)
    theirs, ours = ((one.__module__, one.__qualname__) for one in (old, new))
    if theirs != ours:
        raise ValueError(f"cannot register {kind} '{name}': torchreid {VERSION} already has "
                         f"{'.'.join(theirs)} under that name; choose another name")
    table[name] = new
    if kind == "sampler" and name not in samplers.AVAI_SAMPLERS:
        samplers.AVAI_SAMPLERS.append(name)
