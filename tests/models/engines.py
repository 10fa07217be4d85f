"""What computes frozen trunks: onnxruntime, or torch where it is not installed."""

from __future__ import annotations

import sys

import pytest

ENGINES = ("onnxruntime", "torch")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test runs with each; for ``torch`` the other one is hidden."""
    if request.param == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what makes an import fail
    return str(request.param)
