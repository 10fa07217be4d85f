"""Packages that are there, absent, broken or of the wrong release."""

from __future__ import annotations

import importlib.metadata
from email.message import Message

import pytest
import torch
import torchvision
from packaging.requirements import Requirement

from embae_plugin.doctor import BROKEN, MISSING, OK, Finding, guarded, installation, shown


@pytest.fixture
def module_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_declared_is_checked(monkeypatch):
    about = Message()
    for line in ("torch>=2.6", "Pillow>=9.1", "pyarrow; extra == 'parquet'",
                 "torch>=2.6; extra == 'x'", "ruff; extra == 'dev'"):
        about["Requires-Dist"] = line
    for extra in ("parquet", "x", "dev"):
        about["Provides-Extra"] = extra
    monkeypatch.setattr(installation.importlib.metadata, "metadata", lambda name: about)
    found = [(one.name, str(one.specifier), extra) for one, extra in installation.declared()]
    assert found == [("torch", ">=2.6", ""), ("Pillow", ">=9.1", ""), ("pyarrow", "", "parquet")]
    checked = [found.name for found in installation.check_packages()]
    assert checked == ["Python", "torch", "Pillow", "pyarrow"]


def test_without_metadata_torch_and_torchreid_are_checked(monkeypatch):
    def refuse(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation.importlib.metadata, "metadata", refuse)
    found = list(installation.check_packages())
    assert [one.name for one in found if one.state == MISSING] == ["embae_plugin"]
    assert {"torch", "torchvision", "torchreid"} <= {one.name for one in found}


def check(name: str, extra: str = "") -> Finding:
    return installation.check_package(Requirement(name), extra)


def test_what_is_there(module_folder):
    (module_folder / "a_part.py").write_text("__version__ = '3.1'\n")
    assert check("a-part>=3") == Finding("a-part", OK, "3.1")
    assert check("a-part>=3", "drawing") == Finding("a-part", OK, "3.1", required=False)
    found = check("a-part>=3.2")
    assert (found.state, found.detail) == (BROKEN, "3.1; >=3.2 is needed")
    assert found.fix == "pip install --upgrade 'a-part>=3.2'"
    for number, version in enumerate(("3.2.0a0+nv25.01", "4.x-dev")):
        (module_folder / f"c{number}.py").write_text(f"__version__ = '{version}'\n")
        assert check(f"c{number}>=3.2") == Finding(f"c{number}", OK, version)
    (module_folder / "b_part.py").write_text("")
    assert check("b-part").detail == "version unknown"


def test_what_is_absent():
    found = check("not-there-at-all", "drawing")
    assert found.state == MISSING and "for drawing" in found.detail
    assert found.fix == "pip install not-there-at-all" and not found.fatal


def test_what_lacks_a_part_of_its_own(module_folder):
    (module_folder / "half_part.py").write_text("import not_there_either\n")
    found = check("half-part")
    assert (found.state, found.fix) == (BROKEN, "pip install not_there_either")
    assert found.fatal


def test_what_cannot_be_loaded(module_folder):
    (module_folder / "bad_part.py").write_text("raise OSError('libbad.so: undefined symbol')\n")
    found = check("bad-part")
    assert found.state == BROKEN and "libbad.so: undefined symbol" in found.detail
    assert found.fix == "pip install bad-part --force-reinstall"


def test_torch_of_another_age(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.13.1+cu117")
    found = installation.check_torch(Requirement("torch>=2.6"))
    assert found.state == BROKEN and ">=2.6 is needed" in found.detail
    assert found.fix == "pip install --upgrade 'torch>=2.6' torchvision"


def test_torchvision_belongs_to_torch(monkeypatch):
    def fails(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    need = Requirement("torchvision>=0.18")
    assert installation.check_torchvision(need).state == OK
    monkeypatch.setattr(torchvision.ops, "nms", fails)
    monkeypatch.setattr(installation, "declared", lambda: [(need, "")])
    found = list(installation.check_packages())[-1]
    assert (found.name, found.state) == ("torchvision", BROKEN) and "nms" in found.detail
    assert found.fix == "pip install --force-reinstall torch torchvision"


TORCHREID = Requirement("torchreid")


def test_torchreid_and_what_is_registered_in_it():
    found = installation.check_torchreid(TORCHREID)
    assert found.state == OK and found.detail.split(",")[0] in ("0.2.5", "1.4.0")
    assert "layout, at " in found.detail
    assert found.detail.endswith(", with 4 models of this package")


@pytest.mark.parametrize(
    ("error", "cause", "state", "fix"),
    [
        ("torchreid is not installed: install …", None, MISSING, "pip install torchreid==0.2.5"),
        ("torchreid is installed, but …", ModuleNotFoundError(name="h5py"), BROKEN,
         "pip install h5py"),
        ("torchreid 9 at x is not supported", None, BROKEN,
         "pip install torchreid==0.2.5 --force-reinstall"),
    ],
)
def test_torchreid_that_is_not_usable(monkeypatch, error, cause, state, fix):
    def refuse(name):
        raise ImportError(error) from cause

    monkeypatch.setattr(installation.importlib, "import_module", refuse)
    found = installation.check_torchreid(TORCHREID)
    assert (found.state, found.fix) == (state, fix)


def test_whatever_a_check_raises_is_a_finding():
    def check():
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    found = guarded("vision", check, "pip install x")
    assert found == Finding("vision", BROKEN, "RuntimeError: operator torchvision::nms does not "
                            "exist", "pip install x")


def test_the_report_names_the_command_and_the_verdict():
    good = Finding("a", OK, "1.0", fix="never shown")
    bad = Finding("bc", BROKEN, "cut", "pip install bc")
    spare = Finding("d", MISSING, "not installed", "pip install d", required=False)
    assert shown([good, bad, spare]).splitlines() == [
        "OK      a   1.0",
        "broken  bc  cut",
        "            fix: pip install bc",
        "missing d   not installed (optional)",
        "            fix: pip install d",
        "",
        "needs fixing: bc",
    ]
    assert shown([good, spare]).endswith("\n\nall that is required works; optional: d")
