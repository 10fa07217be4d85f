"""How this process was started."""

from __future__ import annotations

import sys
from pathlib import Path


def is_command() -> bool:
    """Whether this process is the command ``embae`` (or its module by ``python -m``)."""
    started = (getattr(sys, "argv", None) or [""])[0]
    if started == "-m":  # what argv holds while Python looks for the module to run
        return "embae_plugin.commands.main" in sys.orig_argv
    return Path(started).name in ("embae", "embae.exe", "embae-script.py")
