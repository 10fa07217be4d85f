"""EmbAE: unsupervised cross-camera person re-identification, as an extension of torchreid.

Importing this package registers its models, losses, engines, samplers and datasets in torchreid:
afterwards they are used by name like torchreid's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.1.0"


def _is_command() -> bool:
    """Whether this process is the command ``embae`` (or its module by ``python -m``)."""
    started = (getattr(sys, "argv", None) or [""])[0]
    if started == "-m":  # what argv holds while Python looks for the module to run
        return "embae_plugin.commands.main" in sys.orig_argv
    return Path(started).name in ("embae", "embae.exe", "embae-script.py")


try:
    from embae_plugin.feature_extractor import FeatureExtractor
    from embae_plugin.registration import register
    from embae_plugin.reid import ReID

    register()
except Exception:  # a broken library may raise anything
    if not _is_command():
        raise
    # The command reports it in one line when a verb needs what is broken; `embae doctor` doesn't.

__all__ = ["FeatureExtractor", "ReID", "__version__", "register"]
