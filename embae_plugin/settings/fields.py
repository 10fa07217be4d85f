"""Typed settings: a frozen dataclass whose fields carry their default, limits and help.

From such a class follow its node of the configuration, the checks with names and limits, what a
resumed run is compared by, and its part of docs/settings.md.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import reduce
from typing import Any, ClassVar, TypeVar, cast

from yacs.config import CfgNode

S = TypeVar("S", bound="Settings")
Choices = Sequence[str] | Callable[[], Sequence[str]]

OWN_KEY = "<own>"  # the field's name in the node of its class
NODES: dict[str, type[Settings]] = {}  # classes that make up the node `embae`, by their names


@dataclass(frozen=True)
class About:
    """What is known of a setting besides its default; see :func:`setting`."""

    help: str
    above: float | None
    least: float | None
    below: float | None
    most: float | None
    choices: Choices
    key: str
    compared: bool

    def allowed(self) -> Sequence[str]:
        """The words it may be, or none where it is a number or free text."""
        return self.choices() if callable(self.choices) else self.choices

    def limits(self) -> str:
        """Its limits in words, "" for none."""
        lower = [f"greater than {self.above:g}"] if self.above is not None else []
        lower += [f"at least {self.least:g}"] if self.least is not None else []
        upper = [f"below {self.below:g}"] if self.below is not None else []
        upper += [f"at most {self.most:g}"] if self.most is not None else []
        return " and ".join([*lower, *upper])

    def check(self, name: str, value: Any) -> None:
        """Refuses a value outside of the limits or choices by ``name``.

        Raises:
            ValueError: says what would be right.
        """
        allowed = self.allowed()
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if allowed and one not in allowed:
                close = difflib.get_close_matches(str(one), allowed, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise ValueError(f"{name}: {one!r} is not one of {', '.join(allowed)}{hint}")
        if not self.limits():
            return
        inside = (
            isinstance(value, (int, float)) and math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )
        if not inside:
            raise ValueError(f"{name} is {value}; it must be {self.limits()}")


def setting(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    choices: Choices = (),
    key: str = OWN_KEY,
    compared: bool = True,
) -> Any:
    """A field of a :class:`Settings` class.

    Args:
        default: also tells the type; another :class:`Settings` object for settings within
            settings, a tuple for a list.
        help: one sentence for docs/settings.md.
        above, least, below, most: limits; the first and third are not themselves allowed.
        choices: the words it may be, or a function that returns them.
        key: where the configuration has it, if it isn't in the node of its class (``train.lr``);
            "" if it isn't in the configuration, but part of what a row of results stands for.
        compared: whether a stopped run goes on with the same value only.
    """
    about = About(help, above, least, below, most, choices, key, compared)
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Settings:
    """Base of typed settings. ``class ClusterSettings(Settings, node="clusters")`` declares the
    node ``embae.clusters``; node "" is ``embae`` itself, none is in no configuration.

    Raises:
        ValueError: a value outside of its limits, or a combination that :meth:`check` refuses.
    """

    node: ClassVar[str | None] = None

    def __init_subclass__(cls, node: str | None = None) -> None:
        if node is not None:
            cls.node = node
            NODES[f"{cls.__module__}.{cls.__qualname__}"] = cls

    def __post_init__(self) -> None:
        for one, about in self.fields():
            about.check(self.key_of(one, about) or one.name, getattr(self, one.name))
        self.check()

    def check(self) -> None:
        """Refuses combinations that cannot work, with a ValueError that names the keys."""

    @classmethod
    def fields(cls) -> Iterator[tuple[Field[Any], About]]:
        """Each field with what is known of it."""
        for one in fields(cls):
            yield one, cast(About, one.metadata["about"])

    @classmethod
    def key_of(cls, one: Field[Any], about: About) -> str:
        """Where the configuration has a field, "" for nowhere."""
        if about.key != OWN_KEY:
            return about.key
        if cls.node is None:
            return ""
        return ".".join(["embae", *([cls.node] if cls.node else []), one.name])

    @classmethod
    def keys(cls) -> dict[str, str]:
        """Names of the fields that the configuration has, and their keys."""
        plain = [pair for pair in cls.fields() if not isinstance(pair[0].default, Settings)]
        keys = {one.name: cls.key_of(one, about) for one, about in plain}
        return {name: key for name, key in keys.items() if key}

    @classmethod
    def followed(cls) -> set[str]:
        """All keys that are read for this class, those of settings within settings among them."""
        found = set(cls.keys().values())
        for one, _ in cls.fields():
            if isinstance(one.default, Settings):
                found |= type(one.default).followed()
        return found

    @classmethod
    def of(cls: type[S], cfg: CfgNode, **fixed: Any) -> S:
        """The settings in a configuration, those in ``fixed`` apart.

        Raises:
            ValueError: names the key, its value and what would be right.
        """
        values = dict(fixed)
        for one, about in cls.fields():
            key = cls.key_of(one, about)
            if one.name in fixed:
                continue
            if isinstance(one.default, Settings):
                values[one.name] = type(one.default).of(cfg)
            elif key:
                value = reduce(lambda node, part: node[part], key.split("."), cfg)
                values[one.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on from the other, as plain values."""
        found: dict[str, Any] = {}
        for one, about in self.fields():
            value = getattr(self, one.name)
            if isinstance(value, Settings):
                found.update({f"{one.name}.{k}": v for k, v in value.identity().items()})
            elif about.compared:
                found[one.name] = list(value) if isinstance(value, tuple) else value
        return found


def own_node() -> CfgNode:
    """The node ``embae`` with the defaults of every class that is registered.

    Raises:
        ValueError: two classes have one key with different defaults.
    """
    root = CfgNode()
    for cls in NODES.values():
        node = root
        if cls.node:
            node = root.setdefault(cls.node, CfgNode())
        for one, about in cls.fields():
            if about.key != OWN_KEY or isinstance(one.default, Settings):
                continue
            value = list(one.default) if isinstance(one.default, tuple) else one.default
            if node.setdefault(one.name, value) != value:
                raise ValueError(
                    f"{cls.key_of(one, about)} has two defaults, {node[one.name]} and {value}"
                )
    return root
