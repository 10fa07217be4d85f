"""What methods there are: the rows of results, what each starts from and who makes it.

A method registers itself where it is defined::

    @register_method("mine", starts_from="norm")
    class MyEngine(StageEngine): ...

and is then a name of ``embae.variants`` and of ``embae.adapt.method``, in the help of both
commands, in docs/settings.md and, by its own name, in torchreid. Methods of other packages are
found by their entry points (group ``embae.methods``) or by ``--plugin FILE``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from embae_plugin.training.stage_engine import StageEngine

E = TypeVar("E", bound=type[StageEngine])

INITIAL = "initial"  # the model before anything has been learned
BASELINE = "baseline"


@dataclass(frozen=True)
class Row:
    """One row of results, or a step on the way to one.

    Attributes:
        name: in ``embae.variants`` and ``results.json``.
        starts_from: the row whose model it starts from, or that it shows in another way.
        help: one sentence.
        fixed: settings that this row stands for, by name.
        stage: the folder of its checkpoint; "" for the row's name.
        output: what the model it works on returns (z_id, h or joint); "" leaves it.
        trunk_from: a row whose trunk replaces that of the start; "" for none.
        show: ``h`` or ``unnamed``: no method, but its start in another way.
        adapts: learns from the target alone, without labels, and so is for `embae adapt`.
        scored: stands in results where it is asked for; False for steps on the way.
        along: is scored as well where a row that starts from it is.
        method: the engine; None with ``show``.
    """

    name: str
    starts_from: str = BASELINE
    help: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stage: str = ""
    output: str = ""
    trunk_from: str = ""
    show: str = ""
    adapts: bool = True
    scored: bool = True
    along: bool = False
    method: type[StageEngine] | None = None

    @property
    def folder(self) -> str:
        """The folder of its checkpoint."""
        return self.stage or self.name


_ROWS: dict[str, Row] = {}


def register_method(*rows: Row | str, **about: Any) -> Callable[[E], E]:
    """Registers an engine under the names of its rows; a decorator.

    Args:
        rows: the rows that it makes, or the name of a single one, which ``about`` describes.
        **about: attributes of :class:`Row`.

    Raises:
        ValueError: another method has one of the names.
    """

    def register(cls: E) -> E:
        for row in rows:
            row = Row(row, **about) if isinstance(row, str) else row
            made = row if row.show else replace(row, method=cls)
            known = _ROWS.get(made.name)
            if known is not None and _origin(known) != _origin(made):
                raise ValueError(f"there is a method named {made.name} already ({_origin(known)})")
            _ROWS[made.name] = made
        return cls

    return register


def _origin(row: Row) -> str:
    return "" if row.method is None else f"{row.method.__module__}.{row.method.__qualname__}"


def rows() -> dict[str, Row]:
    """Every registered row by name, the plugin's own in the order of its files, then others'."""
    _load_entry_points()
    return dict(_ROWS)


def engines() -> list[type[StageEngine]]:
    """The registered engines, each once."""
    return list(dict.fromkeys(row.method for row in rows().values() if row.method is not None))


def row_named(name: str) -> Row:
    """A row by its name.

    Raises:
        ValueError: there is none.
    """
    found = rows().get(name)
    if found is None:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(rows())}")
    return found


def chain(name: str, cfg: Any) -> Iterator[Row]:
    """What a row is made of, in order: what it starts from, whose trunk it takes, itself."""
    row = row_named(name)
    start = row.starts_from if row.method is None else row.method.start_of(row.starts_from, cfg)
    for earlier in (start, row.trunk_from):
        if earlier and earlier != INITIAL:
            yield from chain(earlier, cfg)
    yield row


def variant_names() -> list[str]:
    """What ``embae.variants`` may name."""
    return [row.name for row in rows().values() if row.scored and not row.along]


def gates() -> list[str]:
    """What ``embae.stages`` may name: the paper's stages."""
    return list(dict.fromkeys(engine.gate for engine in engines() if engine.gate))


@lru_cache(maxsize=1)
def _load_entry_points() -> None:
    for found in entry_points(group="embae.methods"):
        try:
            found.load()
        except Exception as error:
            raise ImportError(
                f"the method {found.name} of {found.value}, which is installed beside EmbAE, "
                f"cannot be loaded: {error}"
            ) from error


def load_plugin(name: str) -> None:
    """Imports a file (``my_method.py``) or a module that registers methods.

    Raises:
        FileNotFoundError: there is no such file or module.
        ImportError: it cannot be imported.
    """
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"--plugin: there is no file {name}")
        module_name = f"embae_method_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise FileNotFoundError(f"--plugin {name}: {error}") from error
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ImportError(f"--plugin {name} cannot be imported: {error}") from error
