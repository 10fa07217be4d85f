"""EmbAE: unsupervised cross-camera person re-identification, as an extension of torchreid.

Importing this package registers its models, losses, engines, samplers and datasets in torchreid:
afterwards they are used by name like torchreid's own.
"""

from __future__ import annotations

from embae_plugin.invocation import is_command

__version__ = "0.1.0"

try:
    from embae_plugin.feature_extractor import FeatureExtractor
    from embae_plugin.registration import register
    from embae_plugin.reid import ReID

    register()
except Exception:  # a broken library may raise anything
    if not is_command():
        raise
    # The command reports it in one line when a verb needs what is broken; `embae doctor` doesn't.

__all__ = ["FeatureExtractor", "ReID", "__version__", "register"]
