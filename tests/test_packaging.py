"""What the package reads beside its modules is packaged with them."""

from __future__ import annotations

import fnmatch
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_data_file_is_packaged(monkeypatch):
    if not (ROOT / "setup.py").is_file():
        pytest.skip("the tests run without the source tree")
    pytest.importorskip("setuptools")  # which brings distutils, where Python has none
    core = importlib.import_module("distutils.core")
    monkeypatch.chdir(ROOT)
    patterns = core.run_setup("setup.py", stop_after="init").package_data
    for path in (ROOT / "embae_plugin").rglob("*"):
        if path.is_dir() or path.suffix == ".py" or "__pycache__" in path.parts:
            continue
        found = any(
            path.is_relative_to(folder)
            and fnmatch.fnmatch(path.relative_to(folder).as_posix(), pattern)
            for package, own in patterns.items()
            for folder in [ROOT / package.replace(".", "/")]
            for pattern in own
        )
        assert found, path
