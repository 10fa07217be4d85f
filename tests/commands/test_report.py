"""``embae report`` as a command."""

from __future__ import annotations

from embae_plugin.commands.main import main
from tests.report_page.files import write_files


def test_a_page_is_written(tmp_path, caplog):
    write_files(tmp_path, people=4)
    words = ["report", "--before", str(tmp_path / "before.npz"),
             "--after", str(tmp_path / "after.npz"), "--map", "pca", "--lists", "1"]
    out = tmp_path / "report.html"
    assert main([*words, "--out", str(out), "--title", "Four people"]) == 0
    text = out.read_text(encoding="utf-8")
    assert "<h1>Four people</h1>" in text and "data:image/jpeg" in text
    assert main([*words, "--out", str(out), "--images-root", str(tmp_path / "none")]) == 0
    assert "data:image/jpeg" not in out.read_text(encoding="utf-8")


def test_mistakes(tmp_path, capsys):
    words = ["report", "--after", "a.npz", "--out", str(tmp_path / "r.html"), "--before"]
    assert main([*words, str(tmp_path / "none.npz")]) == 2
    assert main([*words, "b.npz", "--lists", "0"]) == 2
    said = capsys.readouterr().err
    assert "none.npz do not exist" in said and "lists of a report: 0" in said
