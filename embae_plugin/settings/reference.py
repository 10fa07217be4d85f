"""docs/settings.md, made of the settings classes: ``python -m embae_plugin.settings.reference``."""

from __future__ import annotations

import sys
from collections import defaultdict

from embae_plugin.settings.fields import NODES, Settings

HEAD = """\
# Settings

Every setting of the node `embae`, made of the classes that declare them by
`python -m embae_plugin.settings.reference > docs/settings.md`. They are given in a configuration
file or as `key value` at the end of a command. torchreid's own keys keep torchreid's meaning; what
EmbAE reads of them stands with what reads it.
"""


def settings_page() -> str:
    """The page, in Markdown."""
    sections: dict[str, list[type[Settings]]] = defaultdict(list)
    for cls in NODES.values():
        if cls.__module__.startswith("embae_plugin."):
            sections[cls.node or ""].append(cls)
    parts = [HEAD]
    for node, classes in sections.items():
        title = f"embae.{node}" if node else "embae"
        words = " ".join(str(cls.__doc__).split("\n")[0] for cls in classes)
        rows: dict[str, str] = {}
        for cls in classes:
            rows |= _rows(cls)
        lines = ["| key | default | it may be | what it is |", "|---|---|---|---|", *rows.values()]
        parts.append(f"\n## `{title}`\n\n{words}\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def _rows(cls: type[Settings]) -> dict[str, str]:
    """A table's row for each key of a class."""
    keys, found = cls.keys(), {}
    for one, about in cls.fields():
        key = keys.get(one.name)
        if key is None:
            continue
        own = key.startswith(f"embae.{cls.node}." if cls.node else "embae.")
        value = list(one.default) if isinstance(one.default, tuple) else one.default
        default = f"`{value!r}`" if own else "(torchreid's)" if "embae." not in key else "(there)"
        allowed = ", ".join(f"`{word}`" for word in about.allowed()) or about.limits()
        found[key] = f"| `{key}` | {default} | {allowed} | {about.help} |"
    return found


if __name__ == "__main__":
    sys.stdout.write(settings_page())
