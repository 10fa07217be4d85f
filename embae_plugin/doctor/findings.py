"""What one check found, and how a list of findings is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

OK, MISSING, BROKEN = "OK", "missing", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked.
        state: ``OK``, ``missing`` or ``broken``.
        detail: version and place, or what is wrong.
        mend: the one command that mends it; empty where there is nothing to mend.
        required: whether the package, or what the user named, does not work without it.
    """

    name: str
    state: str
    detail: str = ""
    mend: str = ""
    required: bool = True

    @property
    def fatal(self) -> bool:
        """Whether this makes ``embae doctor`` fail."""
        return self.required and self.state != OK

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def reason(error: BaseException, limit: int = 240) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def guarded(name: str, check: Callable[[], Finding], mend: str = "") -> Finding:
    """What ``check`` finds; whatever it raises is a finding, too."""
    try:
        return check()
    except Exception as error:  # a broken library may raise anything
        return Finding(name, BROKEN, f"{type(error).__name__}: {reason(error)}", mend)


def shown(findings: Sequence[Finding]) -> str:
    """One line for each finding, a second one with the command where there is one to give."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        optional = "" if finding.required or finding.state == OK else " (optional)"
        head = f"{finding.state:<8}{finding.name:<{width}}"
        lines.append(f"{head}  {finding.detail}{optional}".rstrip())
        if finding.mend and finding.state != OK:
            lines.append(f"{'':<8}{'':<{width}}  mend: {finding.mend}")
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence on the whole."""
    fatal = [finding.name for finding in findings if finding.fatal]
    if fatal:
        return f"needs mending: {', '.join(fatal)}"
    absent = [finding.name for finding in findings if finding.state != OK]
    return "all that is required works" + (f"; optional: {', '.join(absent)}" if absent else "")
