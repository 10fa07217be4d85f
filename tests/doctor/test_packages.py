"""Packages that are there, absent, broken or of the wrong release."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision

from embae_plugin.doctor import packages
from embae_plugin.doctor.findings import BROKEN, MISSING, OK, Finding, guarded, shown, verdict


@pytest.fixture
def module_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_declared_dependency_is_checked():
    text = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    assert [name for name in packages.REQUIRED if f'"{name}' not in text] == []
    assert [name for name in packages.OPTIONAL if f'"{name}' not in text] == []


def test_what_is_there(module_folder):
    (module_folder / "a_part.py").write_text("__version__ = '3.1'\n")
    assert packages.check_package("a-part", "a_part") == Finding("a-part", OK, "3.1")


def test_what_is_absent():
    found = packages.check_package("a-part", "not_there_at_all", "drawing", required=False)
    assert found.state == MISSING and "for drawing" in found.detail
    assert found.mend == "pip install a-part" and not found.fatal


def test_what_lacks_a_part_of_its_own(module_folder):
    (module_folder / "half_part.py").write_text("import not_there_either\n")
    found = packages.check_package("half-part", "half_part")
    assert (found.state, found.mend) == (BROKEN, "pip install not_there_either")
    assert found.fatal


def test_what_cannot_be_loaded(module_folder):
    (module_folder / "bad_part.py").write_text("raise OSError('libbad.so: undefined symbol')\n")
    found = packages.check_package("bad-part", "bad_part")
    assert found.state == BROKEN and "libbad.so: undefined symbol" in found.detail
    assert found.mend == "pip install bad-part --force-reinstall"


def test_torch_of_another_age(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.13.1+cu117")
    found = packages.check_torch()
    assert found.state == BROKEN and "2.6 or later" in found.detail


def test_torchvision_belongs_to_torch(monkeypatch):
    assert packages.check_torchvision().state == OK
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(torchvision, "__version__", "0.19.0")
    found = packages.check_torchvision()
    assert (found.state, found.mend) == (BROKEN, "pip install torch==2.9.1 torchvision==0.24.*")


def test_torchreid_and_what_is_registered_in_it():
    found = packages.check_torchreid()
    assert found.state == OK and found.detail.split(",")[0] in ("0.2.5", "1.4.0")
    assert "layout, at " in found.detail
    assert packages.check_registration().state == OK


@pytest.mark.parametrize(
    ("error", "cause", "state", "mend"),
    [
        ("torchreid is not installed: install …", None, MISSING, "pip install torchreid==0.2.5"),
        ("torchreid is installed, but …", ModuleNotFoundError(name="h5py"), BROKEN,
         "pip install h5py"),
        ("torchreid 9 at x is not supported", None, BROKEN,
         "pip install torchreid==0.2.5 --force-reinstall"),
    ],
)  # fmt: skip
def test_torchreid_that_is_not_usable(monkeypatch, error, cause, state, mend):
    def refuse(name):
        raise ImportError(error) from cause

    monkeypatch.setattr(packages.importlib, "import_module", refuse)
    found = packages.check_torchreid()
    assert (found.state, found.mend) == (state, mend)


def test_python_that_is_too_old(monkeypatch):
    assert packages.check_python().state == OK
    monkeypatch.setattr(sys, "version_info", (3, 8, 0))
    assert packages.check_python().state == BROKEN


def test_whatever_a_check_raises_is_a_finding():
    def check():
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    found = guarded("vision", check, "pip install x")
    assert found == Finding("vision", BROKEN, "RuntimeError: operator torchvision::nms does not "
                            "exist", "pip install x")  # fmt: skip


def test_version_of_a_module_without_metadata():
    assert packages.version_of("no such package", types.ModuleType("m")) == "version unknown"
    assert packages.numbers("2.14.1+cu130") == (2, 14)
    assert packages.numbers("unknown") == (0, 0)


def test_the_report_names_the_command_and_the_verdict():
    good = Finding("a", OK, "1.0", mend="never shown")
    bad = Finding("bc", BROKEN, "cut", "pip install bc")
    spare = Finding("d", MISSING, "not installed", "pip install d", required=False)
    assert shown([good, bad, spare]).splitlines() == [
        "OK      a   1.0",
        "broken  bc  cut",
        "            mend: pip install bc",
        "missing d   not installed (optional)",
        "            mend: pip install d",
    ]
    assert verdict([good, bad, spare]) == "needs mending: bc"
    assert verdict([good, spare]) == "all that is required works; optional: d"
