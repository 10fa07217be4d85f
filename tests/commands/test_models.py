"""`embae models`: the list, and fetching by name."""

from __future__ import annotations

import gdown
import pytest
import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.commands.main import main
from embae_plugin.models.zoo import published_models


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_the_list_names_every_model_and_says_which_are_here(cache, capsys):
    cache.mkdir(parents=True)
    (cache / "osnet_x0_25_msmt17.pth").touch()
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line}
    assert {model.name for model in published_models()} < set(lines)
    assert lines["torchreid:osnet_x0_25/msmt17"].split()[1:] == ["MSMT17", "0.2", "M", "yes"]
    assert lines["torchreid:osnet_x1_0/msmt17"].split()[1:] == ["MSMT17", "2.2", "M", "no"]
    assert "MSMT17, Market-1501, CUHK03" in lines["torchreid:osnet_ain_x1_0/ms_m_c"]
    assert "architecture is recognised" in lines["FILE"] and "timm" in lines["timm:NAME"]
    assert f"Fetched into {cache}" in said


def test_models_are_fetched_by_name(cache, capsys, monkeypatch):
    with bridge.quiet():
        net = bridge.build_model("osnet_x0_25", 5, pretrained=False, use_gpu=False)

    def download(url, output, quiet=False, timeout=None):
        torch.save(net.state_dict(), output)

    monkeypatch.setattr(gdown, "download", download)
    names = ["torchreid:osnet_x0_25/market1501", "torchreid:osnet_x0_25/dukemtmcreid"]
    assert main(["models", *names]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [str(cache / f"osnet_x0_25_{data}.pth") for data in
                     ("market1501", "dukemtmcreid")]  # fmt: skip
    assert set(torch.load(paths[0], weights_only=True)) == set(net.state_dict())


def test_mistakes_end_with_one_line(cache, capsys, monkeypatch):
    assert main(["models", "torchreid:osnet_x1_0"]) == 2
    assert "Of osnet_x1_0 it has torchreid:osnet_x1_0/market1501, " in capsys.readouterr().err

    def unreachable(*args, **kwargs):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(gdown, "download", unreachable)
    assert main(["models", "torchreid:osnet_x1_0/msmt17"]) == 2
    *progress, said = capsys.readouterr().err.splitlines()
    assert said.startswith("embae: torchreid:osnet_x1_0/msmt17 could not be fetched (drive.goo")
    assert said.endswith(f"and put the file at {cache}/osnet_x1_0_msmt17.pth")
    assert [line.split(" ", 1)[1][:10] for line in progress] == ["I fetching"]  # behind the time
