"""Published models are fetched once, checked at every use, and named where they can't be had."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import stat
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import gdown
import huggingface_hub
import pytest
import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models import zoo
from embae_plugin.models.zoo import published_model

NAME = "torchreid:osnet_x0_25/market1501"  # no checksum of it is known
ON_HUB = "torchreid:osnet_x0_25/msmt17_combineall"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EMBAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def source(tmp_path) -> Path:
    """A file as the zoo has it: DataParallel's names and a classifier."""
    with bridge.quiet():
        net = bridge.build_model("osnet_x0_25", 5, pretrained=False, use_gpu=False)
    path = tmp_path / "theirs.pth"
    torch.save({f"module.{key}": value for key, value in net.state_dict().items()}, path)
    return path


class Drive:
    """gdown, with files of this machine instead of a network."""

    def __init__(self, files: dict[str, object]) -> None:
        self.files, self.asked = files, []

    def __call__(self, *args, **kwargs) -> str | None:
        given = SIGNATURE.bind(*args, **kwargs).arguments  # TypeError where gdown would raise it
        assert given["timeout"] <= 60
        self.asked.append(given["url"])
        found = self.files.get(urlsplit(given["url"]).hostname)
        if isinstance(found, Exception):
            raise found
        if found is None:
            return None
        Path(given["output"]).write_bytes(found)
        return given["output"]


SIGNATURE = inspect.signature(gdown.download)
UNREACHABLE = OSError(-2, "Name or service not known")


@pytest.fixture
def drive(monkeypatch):
    def install(**files: object) -> Drive:
        stub = Drive({host.replace("_", "."): content for host, content in files.items()})
        stub.__signature__ = SIGNATURE
        monkeypatch.setattr(gdown, "download", stub)
        return stub

    return install


# --- the list ---------------------------------------------------------------------------------


def test_the_list_holds_what_the_authors_publish():
    models = zoo.published_models()
    assert len(models) == len({model.drive for model in models}) == 53
    assert len({model.name for model in models}) == len({model.path for model in models}) == 53
    for model in models:
        assert model.arch in bridge.own_models() and model.trained_on
        assert re.fullmatch(r"1[-\w]{32}", model.drive)
        assert model.sha256 == "" or re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.hub == "" or model.hub.startswith(f"{model.arch}_msmt17_")
    assert sum(bool(model.hub) for model in models) == 6


def test_parameters_are_as_many_as_torch_counts():
    for model in {model.arch: model for model in zoo.published_models()}.values():
        with torch.device("meta"), bridge.quiet():
            net = bridge.build_model(model.arch, 5, pretrained=False, use_gpu=False)
        learned = [p.numel() for name, p in net.named_parameters() if "classifier" not in name]
        assert model.millions == f"{sum(learned) / 1e6:.1f}", model.arch


def test_the_checksum_of_a_published_file_is_right(imagenet_weights):
    known = published_model("torchreid:osnet_x0_25/msmt17").sha256
    assert sha256(imagenet_weights / "osnet_x0_25_msmt17.pth") == known


def test_unknown_names_lead_to_known_ones():
    with pytest.raises(ValueError, match=r"osnet_x1_0/market'. Of osnet_x1_0 it has .*"
                       r"torchreid:osnet_x1_0/market1501, .*`embae models`"):
        published_model("torchreid:osnet_x1_0/market")
    with pytest.raises(ValueError, match="torchreid:mlfn/msmt17"):
        published_model("torchreid:mlfm/msmt17")
    with pytest.raises(ValueError, match="no model 'x'"):
        zoo.fetch("x")


def test_links_are_those_of_the_hub_and_of_drive():
    model = published_model(ON_HUB)
    hub, drive = model.links
    assert hub == huggingface_hub.hf_hub_url(zoo.HUB, model.hub,
                                             revision=zoo.HUB_REVISION)
    assert hub.startswith("https://huggingface.co/kaiyangzhou/osnet/resolve/a5c5cc037c24235cda3b")
    assert drive == "https://drive.google.com/uc?id=1Kkx2zW89jq_NETu4u42CFZTMVD5Hwm6e"
    assert published_model(NAME).links == [
        "https://drive.google.com/uc?id=1z1UghYvOTtjx7kEoRfmqSMu-z62J6MAj"
    ]


# --- the cache --------------------------------------------------------------------------------


def test_the_cache_follows_its_variables(monkeypatch, tmp_path):
    assert zoo.cache_folder() == tmp_path / "cache" / "models"
    monkeypatch.delenv("EMBAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert zoo.cache_folder() == tmp_path / "x" / "embae" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.cache_folder() == tmp_path / ".cache" / "embae" / "models"


def test_a_model_is_fetched_once(cache, source, drive):
    stub = drive(drive_google_com=source.read_bytes())
    path = zoo.fetch(NAME)
    assert path == cache / "osnet_x0_25_market1501.pth" == published_model(NAME).path
    assert path.read_bytes() == source.read_bytes()
    note = cache / "osnet_x0_25_market1501.pth.sha256"
    assert note.read_text() == f"{sha256(source)}  osnet_x0_25_market1501.pth\n"
    assert zoo.fetch(NAME) == path and len(stub.asked) == 1
    assert sorted(os.listdir(cache)) == [path.name, note.name]
    (cache / "new").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((cache / "new").stat().st_mode)


def test_gdown_still_takes_what_it_is_given():
    known = SIGNATURE.parameters
    assert list(known)[:3] == ["url", "output", "quiet"] and "timeout" in known


def test_an_old_gdown_without_a_time_limit_serves(cache, source, monkeypatch):
    def download(url=None, output=None, quiet=False, proxy=None, speed=None, use_cookies=True):
        Path(output).write_bytes(source.read_bytes())
        return output

    monkeypatch.setattr(gdown, "download", download)
    assert zoo.fetch(NAME).read_bytes() == source.read_bytes()


def test_a_file_with_the_published_checksum_is_taken(cache, imagenet_weights, drive):
    content = (imagenet_weights / "osnet_x0_25_msmt17.pth").read_bytes()
    drive(drive_google_com=content)
    assert zoo.fetch("torchreid:osnet_x0_25/msmt17").read_bytes() == content


@pytest.mark.parametrize("changed", ["before", "after"])
def test_a_file_that_is_not_the_published_one_is_refused(cache, source, drive, changed):
    drive(drive_google_com=source.read_bytes())
    name = "torchreid:osnet_x0_25/msmt17"
    if changed == "before":
        with pytest.raises(FileNotFoundError, match="is not the published file: its sha256 is"):
            zoo.fetch(name)
        assert not cache.exists()
        return
    cache.mkdir(parents=True)
    path = cache / "osnet_x0_25_msmt17.pth"
    path.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r"msmt17\.pth is not the published file.*Remove it"):
        zoo.fetch(name)
    assert sorted(os.listdir(cache)) == [path.name]


def test_a_file_that_changes_after_its_first_use_is_refused(cache, source, drive):
    drive(drive_google_com=source.read_bytes())
    path = zoo.fetch(NAME)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"market1501\.pth has changed since its first use"):
        zoo.fetch(NAME)


def test_a_file_put_there_by_hand_is_checked_and_remembered(cache, source, drive):
    stub = drive()
    cache.mkdir(parents=True)
    path = cache / "osnet_x0_25_market1501.pth"
    path.write_bytes(source.read_bytes())
    assert zoo.fetch(NAME) == path and stub.asked == []
    path.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="has changed since its first use"):
        zoo.fetch(NAME)


def test_a_file_of_another_network_put_there_is_refused(cache, source):
    cache.mkdir(parents=True)
    (cache / "osnet_x1_0_market1501.pth").write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r"1\.pth: these weights are not those of osnet_x1_0.* R"):
        zoo.fetch("torchreid:osnet_x1_0/market1501")
    assert os.listdir(cache) == ["osnet_x1_0_market1501.pth"]


# --- what cannot be fetched ---------------------------------------------------------------------


def test_without_a_network_the_file_is_named_with_its_address_and_its_place(cache, drive):
    drive(drive_google_com=UNREACHABLE)
    with pytest.raises(FileNotFoundError) as caught:
        zoo.fetch(NAME)
    assert str(caught.value) == (
        f"{NAME} could not be fetched (drive.google.com: [Errno -2] Name or service not known). "
        "Get https://drive.google.com/uc?id=1z1UghYvOTtjx7kEoRfmqSMu-z62J6MAj on any machine, and "
        f"put the file at {cache}/osnet_x0_25_market1501.pth"
    )
    assert not cache.exists()


def test_what_a_library_wraps_around_a_failure_is_left_out(drive):
    try:
        try:
            raise UNREACHABLE
        except OSError as error:
            raise RuntimeError("HTTPSConnectionPool(…):\nMax retries exceeded") from error
    except RuntimeError as error:
        drive(drive_google_com=error)
    with pytest.raises(FileNotFoundError, match=r"\(drive\.google\.com: \[Errno -2\] Name or ser"):
        zoo.fetch(NAME)


@pytest.mark.parametrize("answer", [None, b"<html>Quota exceeded</html>", b""])
def test_an_answer_that_is_no_file_of_weights_is_not_kept(cache, drive, answer):
    drive(drive_google_com=answer)
    with pytest.raises(FileNotFoundError, match="could not be fetched") as caught:
        zoo.fetch(NAME)
    said = str(caught.value)
    assert "\n" not in said and "/tmp" not in said.partition("Get ")[0] and not cache.exists()


def test_the_hub_comes_first_and_drive_serves_where_it_fails(cache, source, drive, monkeypatch):
    monkeypatch.setattr(
        zoo, "published_model", lambda name: replace(published_model(name), sha256=sha256(source))
    )
    stub = drive(huggingface_co=UNREACHABLE, drive_google_com=source.read_bytes())
    assert zoo.fetch(ON_HUB).read_bytes() == source.read_bytes()
    assert [urlsplit(url).hostname for url in stub.asked] == ["huggingface.co", "drive.google.com"]
    zoo.fetch(ON_HUB).unlink()
    stub = drive(huggingface_co=source.read_bytes())
    zoo.fetch(ON_HUB)
    assert len(stub.asked) == 1


def test_a_wrong_file_of_the_hub_does_not_keep_the_right_one_of_drive_out(
    cache, source, drive, monkeypatch
):
    monkeypatch.setattr(
        zoo, "published_model", lambda name: replace(published_model(name), sha256=sha256(source))
    )
    drive(huggingface_co=b"moved", drive_google_com=source.read_bytes())
    assert zoo.fetch(ON_HUB).read_bytes() == source.read_bytes()
    zoo.fetch(ON_HUB).unlink()
    drive(huggingface_co=b"moved", drive_google_com=UNREACHABLE)
    with pytest.raises(FileNotFoundError, match=r"huggingface\.co: osnet.*published file.*; dri"):
        zoo.fetch(ON_HUB)


# --- over a real connection -------------------------------------------------------------------


@pytest.fixture
def server(source):
    """Serves the source's folder on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(source.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_gdown_fetches_an_ordinary_address(cache, source, server, monkeypatch):
    links = property(lambda self: [f"{server}/gone.pth", f"{server}/theirs.pth"])
    monkeypatch.setattr(zoo.PublishedModel, "links", links)
    assert zoo.fetch(NAME).read_bytes() == source.read_bytes()


def test_an_address_without_the_file_leaves_nothing(cache, server, monkeypatch):
    monkeypatch.setattr(zoo.PublishedModel, "links", [f"{server}/gone.pth"])
    with pytest.raises(FileNotFoundError, match=r"\(127\.0\.0\.1: .*\)\. Get http://127.0.0.1"):
        zoo.fetch(NAME)
    assert not cache.exists()


def test_a_full_disk_leaves_no_half_file(cache, source, drive, monkeypatch):
    drive(drive_google_com=source.read_bytes())

    def full(*args: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zoo.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.fetch(NAME)
    assert os.listdir(cache) == []
