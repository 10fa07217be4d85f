"""`embae data`: exit codes, the table, JSON, and mistakes in the command."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from embae_plugin.torchreid_bridge.known_datasets import Counts
from tests.data.test_checking import publish
from tests.zoo_files import write_viper


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with a VIPeR of 3 people that counts as complete."""
    write_viper(tmp_path / "root", 3)
    publish(monkeypatch, "viper", all=Counts(6, 3, 2))
    return tmp_path / "root"


def test_exit_codes(root, capsys):
    check = ["data", "check", "--root", str(root)]
    assert main([*check, "viper", "synthetic_target"]) == 0
    assert "6 / 6" in capsys.readouterr().out
    assert main([*check, "viper", "ward"]) == 1
    assert "Ask for WARD" in capsys.readouterr().out
    assert main(check) == 1
    assert "missing (withdrawn)" in capsys.readouterr().out
    assert main([*check, "vipers"]) == 2
    assert "unknown data set 'vipers'" in capsys.readouterr().err


def test_json(root, capsys):
    assert main(["data", "check", "viper", "ward", "--root", str(root), "--json"]) == 1
    viper, ward = json.loads(capsys.readouterr().out)
    assert (viper["state"], viper["usable"], ward["state"]) == ("complete", True, "missing")
    assert viper["found"] == {"all": {"images": 6, "ids": 3, "cams": 2}} == viper["published"]
    assert ward["found"] == {} and ward["folder"] == str(root / "ward")


def test_get(root, tmp_path, capsys):
    archive = shutil.make_archive(str(tmp_path / "v"), "zip", root)
    get = ["data", "get", "viper", "--root", str(tmp_path / "new"), "--url", archive]
    assert main([*get, "--md5", "0" * 31]) == 2
    assert "expected 32 hexadecimal digits" in capsys.readouterr().err
    assert main([*get, "--sha256", "0" * 64]) == 2
    assert "has sha256" in capsys.readouterr().err
    assert main(get) == 0
    assert "complete" in capsys.readouterr().out
    assert main(get) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_get_says_whom_to_ask(tmp_path, capsys):
    assert main(["data", "get", "ward", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "University of Udine" in error and "--url FILE_OR_ADDRESS" in error


def test_both_flags_of_digests(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "get", "ward", "--root", ".", "--md5", "0", "--sha256", "0"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_script(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "tools" / "data.py"
    monkeypatch.setattr("sys.argv", [str(script), "check", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit code: 0 if every data set asked for is complete" in text
