"""``embae export`` as a command."""

from __future__ import annotations

import torch

from embae_plugin.commands import export
from embae_plugin.commands.main import main
from tests.export.conftest import bundle, checkpoint, crops  # noqa: F401


def test_a_checked_file(checkpoint, crops, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "model.pt"
    words = ["export", "--checkpoint", str(checkpoint), "--format", "torchscript"]
    assert main([*words, "--out", str(out), "--check", str(crops), "--check-limit", "5"]) == 0
    assert "largest difference on 5 crops: " in capsys.readouterr().out
    assert torch.jit.load(str(out))(torch.rand(2, 3, 64, 32)).shape == (2, 16)


def test_a_difference_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(export, "largest_difference", lambda *rest: 2e-4)
    words = ["export", "--checkpoint", str(checkpoint), "--format", "torchscript"]
    assert main([*words, "--out", str(tmp_path / "model.pt")]) == 1
    said = capsys.readouterr()
    assert "3 images of noise: 2.0e-04" in said.out
    assert "differs from the model by 2.0e-04, more than 0.0001; it was not kept" in said.err
    assert list(tmp_path.iterdir()) == []


def test_mistakes(checkpoint, tmp_path, capsys):  # noqa: F811
    words = ["export", "--checkpoint", str(checkpoint), "--format", "onnx", "--out", "x.onnx"]
    assert main([*words, "--check-limit", "0"]) == 2
    assert main([*words, "--check", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "--check-limit 0: at least 1" in said and "none does not exist" in said
