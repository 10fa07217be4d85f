"""What the pages' commands run with."""

from __future__ import annotations

import pytest
from yacs.config import CfgNode

from embae_plugin.settings import config, tree


@pytest.fixture
def unguarded(monkeypatch) -> None:
    """Statistics of a few drawn pictures suit no network, and the guard would rightly undo them."""
    true = tree.get_default_config

    def without_guard() -> CfgNode:
        cfg = true()
        cfg.embae.adapt.flip_fall = 2.0
        return cfg

    monkeypatch.setattr(config, "get_default_config", without_guard)
