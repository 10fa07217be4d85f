"""Fetching data sets, from local archives and a stand-in for gdown; no network anywhere."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace

import gdown
import pytest

from embae_plugin.data import layouts
from embae_plugin.data.archives import unpack
from embae_plugin.data.download import drive_link, get_dataset
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Counts, Download
from tests.data.test_checking import publish, write_cuhk03
from tests.zoo_files import write_viper


@pytest.fixture
def viper_zip(tmp_path, monkeypatch):
    """An archive of a 3-person VIPeR, two folders deep, and what counts as published."""
    folder = write_viper(tmp_path / "made", 3)
    publish(monkeypatch, "viper", all=Counts(6, 3, 2))
    return shutil.make_archive(str(tmp_path / "VIPeR.v1.0"), "zip", folder.parent)


@pytest.fixture
def fetched(monkeypatch):
    """gdown's calls; it copies the file that ``serve`` names."""

    class Stub:
        calls: list[str] = []  # noqa: RUF012
        serve = ""

        def download(self, url, output, quiet=False):
            self.calls.append(url)
            if not self.serve:
                raise RuntimeError("Cannot retrieve\nthe public link")
            return shutil.copy(self.serve, output)

    stub = Stub()
    stub.calls = []
    monkeypatch.setattr(gdown, "download", stub.download)
    return stub


def test_a_local_archive(tmp_path, viper_zip, fetched):
    root = tmp_path / "root"
    found = get_dataset("viper", root, viper_zip)
    assert (found.state, found.folder) == ("complete", str(root / "viper"))
    assert sorted(path.name for path in root.iterdir()) == ["viper"]
    assert len(list((root / "viper/VIPeR/cam_b").iterdir())) == 3
    assert fetched.calls == []


def test_tar_and_a_drive_id(tmp_path, viper_zip, fetched):
    fetched.serve = shutil.make_archive(str(tmp_path / "viper"), "gztar", tmp_path / "made/viper")
    get_dataset("viper", tmp_path / "root", "A" * 28)
    assert fetched.calls == [f"https://drive.google.com/uc?id={'A' * 28}"]
    assert (tmp_path / "root/viper/VIPeR/cam_a/000_0.bmp").is_file()


def test_drive_links():
    link = "https://drive.google.com/file/d/0B8-xyz/view?usp=sharing&resourcekey=0-8ny"
    assert drive_link(link) == "https://drive.google.com/uc?id=0B8-xyz&resourcekey=0-8ny"
    assert drive_link("https://example.org/a.zip?x=1") == "https://example.org/a.zip?x=1"
    with pytest.raises(ValueError, match=r"--url VIPeR\.zip: no such file"):
        drive_link("VIPeR.zip")


def test_the_authors_download_is_checked(tmp_path, viper_zip, fetched, monkeypatch):
    fetched.serve = viper_zip
    md5 = hashlib.md5(open(viper_zip, "rb").read()).hexdigest()  # noqa: SIM115
    for digest, fits in ((f"md5:{md5}", True), (f"md5:{'0' * 32}", False)):
        archive = Download("https://example.org/v.zip", digest, "v.zip")
        monkeypatch.setitem(SOURCES, "viper", replace(SOURCES["viper"], archive=archive))
        root = tmp_path / digest[-4:]
        if fits:
            assert get_dataset("viper", root).usable
            continue
        with pytest.raises(ValueError, match=f"has md5 {md5}, not 0000.*not used.*By hand: Ask"):
            get_dataset("viper", root)
        assert list(root.iterdir()) == []


def test_own_digest(tmp_path, viper_zip):
    with pytest.raises(ValueError, match="has sha256 .* not aaaa"):
        get_dataset("viper", tmp_path / "root", viper_zip, "sha256:" + "a" * 64)
    assert list((tmp_path / "root").iterdir()) == []


def test_what_is_there_stays(tmp_path, viper_zip):
    kept = tmp_path / "root/viper/notes.txt"
    kept.parent.mkdir(parents=True)
    get_dataset("viper", tmp_path / "root", viper_zip)  # An empty folder is in nobody's way.
    with pytest.raises(FileExistsError, match="is there already and is never overwritten"):
        get_dataset("viper", tmp_path / "root", viper_zip)
    assert (tmp_path / "root/viper/VIPeR").is_dir()


@pytest.mark.parametrize("name", ["viper", "cuhk01", "cuhk03", "ward", "dukemtmcreid"])
def test_no_download_that_can_not_work_is_started(tmp_path, fetched, name):
    with pytest.raises(ValueError, match="there is no download of .* to start") as caught:
        get_dataset(name, tmp_path / "root")
    assert f"expected: {tmp_path / 'root'}" in str(caught.value)
    assert fetched.calls == [] and not (tmp_path / "root").exists()


def test_withdrawn_data_comes_from_this_machine_only(tmp_path, fetched):
    with pytest.raises(ValueError, match="withdrawn by its authors.*on this machine only"):
        get_dataset("dukemtmcreid", tmp_path, "https://example.org/duke.zip")
    assert fetched.calls == []


def test_market1501_comes_from_its_authors(tmp_path, fetched):
    with pytest.raises(OSError, match=r"failed \(Cannot retrieve the public link\)\. By hand: Get"):
        get_dataset("market1501", tmp_path)
    assert fetched.calls == [SOURCES["market1501"].archive.url]
    assert list(tmp_path.iterdir()) == []


def test_gdown_that_only_returns_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gdown, "download", lambda url, output, quiet: None)
    with pytest.raises(OSError, match=r"fetching https.* failed \(nothing came\)\. By hand"):
        get_dataset("market1501", tmp_path)


def test_names(tmp_path):
    with pytest.raises(ValueError, match="'synthetic_target' is built in"):
        get_dataset("synthetic_target", tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'msmt17', expected one of market1501"):
        get_dataset("msmt17", tmp_path)


def fails(root, archive, message):
    with pytest.raises(ValueError, match=message):
        get_dataset("viper", root, str(archive))
    assert list(root.iterdir()) == []


def test_not_an_archive(tmp_path, viper_zip):
    root, page, part = tmp_path / "root", tmp_path / "page.zip", tmp_path / "part.zip"
    page.write_text(" <!DOCTYPE html><html>Sign in</html>", encoding="utf-8")
    fails(root, page, r"page\.zip is a web page, not an archive.*By hand: Ask for VIPeR")
    part.write_bytes(open(viper_zip, "rb").read()[:500])  # noqa: SIM115
    fails(root, part, "neither a zip nor a tar archive")
    data = bytearray(open(viper_zip, "rb").read())  # noqa: SIM115
    start = data.index(b"PK\x03\x04", data.index(b".bmp"))
    data[start - 60 : start - 20] = bytes(40)
    part.write_bytes(data)
    fails(root, part, "is a damaged archive")


def test_archive_of_something_else(tmp_path, viper_zip):
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("holiday/beach.jpg", b"x")
    fails(tmp_path / "root", other, "the archive is not VIPeR: it holds holiday")


def test_other_counts_are_refused(tmp_path, viper_zip, monkeypatch):
    publish(monkeypatch, "viper", all=Counts(1264, 632, 2))
    fails(tmp_path / "root", viper_zip, r"no complete VIPeR.*differs, found all \(6, 3, 2\), publ")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_names_that_lead_out(tmp_path, viper_zip, name):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr(name, b"x")
    fails(tmp_path / "root", bad, "leads out of the folder")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_are_left_out(tmp_path, viper_zip):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as file:
        link = tarfile.TarInfo("cam_a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
        file.add(tmp_path / "made/viper/VIPeR/cam_b", "cam_b")
    fails(tmp_path / "root", bad, "the archive is not VIPeR: it holds cam_b")


def test_only_content_is_taken_over(tmp_path):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as file:
        info = tarfile.TarInfo("tool")
        info.mode, info.uid, info.size = 0o6777, 12345, 1
        file.addfile(info, io.BytesIO(b"x"))
    unpack(bad, tmp_path / "new")
    got = (tmp_path / "new" / "tool").stat()
    assert got.st_uid == os.geteuid() and not got.st_mode & 0o7111


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("x" * 300,)])
def test_names_that_no_files_can_have(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        for name in names:
            file.writestr(name, b"x")
    with pytest.raises(ValueError, match="is a damaged archive: .*(too long|exists|directory)"):
        unpack(tmp_path / "bad.zip", tmp_path / "new")


def test_full_disk(tmp_path, viper_zip, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"bytes unpacked, but .* has 10"):
        get_dataset("viper", tmp_path / "root", viper_zip)


def test_split_files_of_cuhk03_come_along(tmp_path, monkeypatch, fetched):
    monkeypatch.setattr(layouts, "_PEOPLE_OF_CUHK03", 3)
    folder, _ = write_cuhk03(tmp_path / "made")
    parts = {"train": Counts(2, 1, 2), "query": Counts(1, 1, 1), "gallery": Counts(3, 2, 2)}
    published = {f"{k} {p}": c for k in ("detected", "labelled") for p, c in parts.items()}
    publish(monkeypatch, "cuhk03", **published)
    everything = shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    assert get_dataset("cuhk03", tmp_path / "one", everything).usable
    assert fetched.calls == []
    release = shutil.make_archive(str(tmp_path / "release"), "zip", folder / "cuhk03_release")
    fetched.serve = folder / "cuhk03_new_protocol_config_detected.mat"
    with pytest.raises(ValueError, match="config_detected.mat has sha256"):
        get_dataset("cuhk03", tmp_path / "two", release)
    extras = tuple(file._replace(digest="") for file in SOURCES["cuhk03"].extras)
    monkeypatch.setitem(SOURCES, "cuhk03", replace(SOURCES["cuhk03"], extras=extras))
    assert get_dataset("cuhk03", tmp_path / "two", release).usable
    assert fetched.calls[-2:] == [file.url for file in extras]
    assert (tmp_path / "two/cuhk03/cuhk03_release/cuhk-03.mat").is_file()
