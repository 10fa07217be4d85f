"""The README's own example runs as it stands, and prints what it says it prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from embae_plugin.reid import ReID
from tests.crops_world import write_crops
from tests.docs.test_commands import blocks, commands
from tests.networks import write_zoo_file

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = "## Your own cameras"


@pytest.fixture
def world(tmp_path, monkeypatch, unguarded) -> Path:
    """Crops of two cameras, and the network that the example names: the real one if it is here."""
    write_crops(tmp_path / "crops", 5, 2, 2, ".jpg")
    for camera, name in (("cam_a", "gate"), ("cam_b", "yard")):
        (tmp_path / "crops" / camera).rename(tmp_path / "crops" / name)
    name = "osnet_x0_25_msmt17.pth"
    real = Path(os.environ.get("EMBAE_TEST_WEIGHTS", "")) / name
    if real.is_file():
        shutil.copy(real, tmp_path / name)
    else:
        write_zoo_file(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_example(world, caplog):
    text = README.read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    (_, bash), (_, python) = blocks(text)
    [command] = commands(bash)
    with caplog.at_level("INFO"):
        assert main(command[1:]) == 0
    assert "20 images on 2 camera(s)" in caplog.text and "gate" in caplog.text
    assert "Adapted osnet_x0_25_msmt17.pth to 20 crops of 2 camera(s)" in caplog.text
    assert "How sure is it that the model is better?" in caplog.text
    assert {path.stem for path in Path("adapted/torchreid").iterdir()} == {
        "osnet_x0_25", "osnet_x0_25_gate", "osnet_x0_25_yard"
    }
    caplog.clear()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python, str(README), "exec"), {"__name__": "the README"})
    assert printed.getvalue().split("\n")[:-1] == re.findall(r"^print.*  # (.*)$", python, re.M)
    assert "not told" not in caplog.text, "the example names its cameras"


def test_a_camera_that_is_not_named_is_warned_of_once(world, caplog):
    text = README.read_text(encoding="utf-8").split(SECTION)[1]
    main(commands(blocks(text)[0][1])[0][1:])
    reid = ReID.load("adapted", "cpu")
    caplog.clear()
    for _ in range(2):
        reid.embed("crops/gate/0001_0.jpg")
    assert caplog.text.count("is not told which of them took these images") == 1
    assert "gate, yard" in caplog.text and "cameras=" in caplog.text
