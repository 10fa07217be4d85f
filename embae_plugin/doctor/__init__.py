"""Checks of an installation: each finding says what is there, or the command that fixes it.

Nothing here imports torch, torchreid or anything else that may be broken before it is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

OK, MISSING, BROKEN = "OK", "missing", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked.
        state: ``OK``, ``missing`` or ``broken``.
        detail: version and place, or what is wrong.
        fix: the one command that fixes it; empty where there is nothing to fix.
        required: whether the package, or what the user named, does not work without it.
    """

    name: str
    state: str
    detail: str = ""
    fix: str = ""
    required: bool = True

    @property
    def fatal(self) -> bool:
        """Whether this makes ``embae doctor`` fail."""
        return self.required and self.state != OK


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:239]}…"


def guarded(name: str, check: Callable[[], Finding], fix: str = "") -> Finding:
    """What ``check`` finds; whatever it raises is a finding, too."""
    try:
        return check()
    except FileNotFoundError as error:
        return Finding(name, MISSING, reason(error))
    except Exception as error:  # a broken library may raise anything
        return Finding(name, BROKEN, f"{type(error).__name__}: {reason(error)}", fix)


def shown(findings: Sequence[Finding]) -> str:
    """A line for each finding, one more with the command that fixes it, and the verdict."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for one in findings:
        optional = "" if one.required or one.state == OK else " (optional)"
        lines.append(f"{one.state:<8}{one.name:<{width}}  {one.detail}{optional}".rstrip())
        if one.fix and one.state != OK:
            lines.append(f"{'':<{8 + width}}  fix: {one.fix}")
    absent = ", ".join(one.name for one in findings if one.state != OK)
    if any(one.fatal for one in findings):
        verdict = f"needs fixing: {', '.join(one.name for one in findings if one.fatal)}"
    else:
        verdict = "all that is required works" + (f"; optional: {absent}" if absent else "")
    return "\n".join([*lines, "", verdict])
