"""Reading torchreid's datasets: splits, missing data, moved folders, no downloads."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.torchreid_bridge.known_datasets import SOURCES
from tests.zoo_files import write_image, write_viper


def test_splits_of_market1501(market_root):
    train, query, gallery = (
        bridge.dataset_split("market1501", market_root, mode)
        for mode in ("train", "query", "gallery")
    )
    assert [len(items) for items in (train, query, gallery)] == [16, 6, 12]
    assert train == sorted(train)
    # Training identities are renumbered from 0, the others keep the numbers in their file names.
    assert {item[1] for item in train} == {0, 1, 2, 3}
    assert [(pid, camid, dsetid) for _, pid, camid, dsetid in query[:2]] == [(5, 0, 0), (5, 1, 0)]
    path, *labels = gallery[-1]
    assert path.endswith("bounding_box_test/0007_c2s1_000001_00.jpg") and labels == [7, 1, 0]


def test_options_reach_the_dataset(market_root):
    items = bridge.dataset_split("market1501", market_root, "train", combineall=True)
    assert len(items) == 16 + 6 + 12


def test_impossible_mode_and_unknown_name(market_root):
    with pytest.raises(ValueError, match="mode must be train, query or gallery, not 'test'"):
        bridge.dataset_split("market1501", market_root, "test")
    with pytest.raises(ValueError, match=r"unknown dataset 'market'; available: cuhk01, .*viper"):
        bridge.dataset_split("market", market_root, "train")


@pytest.mark.parametrize("name", sorted({*SOURCES, "grid", "university1652", "cuhksysu"}))
def test_missing_folder(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        bridge.dataset_split(name, tmp_path, "train")
    message = str(caught.value)
    assert f"dataset '{name}': looked for {tmp_path}" in message
    assert "nothing is downloaded" in message
    assert list(tmp_path.iterdir()) == []


def test_missing_subfolder_is_named(market_root):
    folder = market_root / "market1501" / "Market-1501-v15.09.15"
    shutil.rmtree(folder / "query")
    with pytest.raises(FileNotFoundError) as caught:
        bridge.dataset_split("market1501", market_root, "train")
    assert f"looked for {folder / 'query'}, which is not there" in str(caught.value)
    assert "zheng-lab-anu.github.io" in str(caught.value)
    assert f"{folder}/{{bounding_box_train,query,bounding_box_test}}" in str(caught.value)


def test_withdrawn_dataset_comes_without_a_link(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"withdrawn by its authors.*privacy") as caught:
        bridge.dataset_split("dukemtmcreid", tmp_path, "train")
    assert "http" not in str(caught.value)


def test_nobody_elses_dataset_downloads_either(tmp_path, monkeypatch):
    class Elsewhere(bridge.ImageDataset):
        def __init__(self, root="", **kwargs):
            self.download_dataset(f"{root}/elsewhere", "http://localhost/elsewhere.zip")
            super().__init__([("a", 0, 0)], [("b", 0, 0)], [("c", 0, 1)], **kwargs)

    monkeypatch.setitem(bridge.dataset_table(), "elsewhere", Elsewhere)
    with pytest.raises(FileNotFoundError, match=f"looked for {tmp_path}/elsewhere"):
        bridge.dataset_split("elsewhere", tmp_path, "train")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "elsewhere").mkdir()
    assert bridge.dataset_split("elsewhere", tmp_path, "gallery") == [("c", 0, 1, 0)]


def test_errors_of_other_peoples_datasets_pass(monkeypatch, tmp_path):
    class Broken(bridge.ImageDataset):
        def __init__(self, **kwargs):
            raise RuntimeError("mine")

    monkeypatch.setitem(bridge.dataset_table(), "broken", Broken)
    with pytest.raises(RuntimeError, match=r"^mine$"):
        bridge.dataset_split("broken", tmp_path, "train")


def test_wrongly_named_files(market_root):
    write_image(market_root / "market1501/Market-1501-v15.09.15/query/holiday.jpg")
    with pytest.raises(ValueError, match=r"'market1501' in .* named otherwise than expected"):
        bridge.dataset_split("market1501", market_root, "train")


def test_empty_subset(market_root):
    folder = market_root / "market1501/Market-1501-v15.09.15/query"
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="files are missing or named otherwise"):
        bridge.dataset_split("market1501", market_root, "gallery")


def test_random_splits_are_the_same_everywhere(tmp_path):
    names = []
    for place, state in (("here", 1), ("there", 2)):
        write_viper(tmp_path / place)
        np.random.seed(state)
        random.seed(state)
        before = np.random.get_state()[1].tolist(), random.getstate()
        items = bridge.dataset_split("viper", tmp_path / place, "train", split_id=3)
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before
        names.append([(path.split("VIPeR")[1], pid, camid) for path, pid, camid, _ in items])
    assert names[0] == names[1]
    assert len(names[0]) == 6


def test_splits_of_a_folder_that_was_moved(tmp_path):
    write_viper(tmp_path / "before")
    items = bridge.dataset_split("viper", tmp_path / "before", "train")
    (tmp_path / "before").rename(tmp_path / "after")
    stale = tmp_path / "after" / "viper" / "splits.json"
    with pytest.raises(ValueError, match=f"moved or copied. Delete {stale} and load it again"):
        bridge.dataset_split("viper", tmp_path / "after", "train")
    stale.unlink()
    again = bridge.dataset_split("viper", tmp_path / "after", "train")
    assert [path.replace("after", "before") for path, *_ in again] == [item[0] for item in items]


def test_splits_of_a_folder_that_was_copied_do_not_lead_to_the_first(tmp_path):
    write_viper(tmp_path / "first")
    bridge.dataset_split("viper", tmp_path / "first", "train")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    with pytest.raises(ValueError, match=r"do not lie in .*second.viper .*moved or copied"):
        bridge.dataset_split("viper", tmp_path / "second", "train")
    (tmp_path / "link").symlink_to(tmp_path / "first")  # another name is no other place
    assert bridge.dataset_split("viper", tmp_path / "link", "train")


@pytest.mark.parametrize("text", ["{}", "[{}]", "[[1]]", "[", "3", "null", '[{"train": 3}]',
                                  '[{"train": [[1]], "query": [], "gallery": []}]'])
def test_splits_that_are_damaged(tmp_path, text):
    write_viper(tmp_path)
    (tmp_path / "viper" / "splits.json").write_text(text)
    with pytest.raises(ValueError, match="viper|split_id exceeds range"):
        bridge.dataset_split("viper", tmp_path, "train")


def test_nothing_is_printed(market_root, capsys):
    bridge.dataset_split("market1501", market_root, "train", verbose=True)
    assert capsys.readouterr().out == ""


def test_real_data(reid_data_root):
    modes = ("train", "query", "gallery")
    sizes = [len(bridge.dataset_split("viper", reid_data_root, mode)) for mode in modes]
    assert sizes == [632, 316, 316]
    everyone = bridge.dataset_split("cuhk01", reid_data_root, "train", combineall=True)
    assert (len(everyone), len({item[1] for item in everyone})) == (3884, 971)
