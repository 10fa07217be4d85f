"""Records of crops: groups, merging of datasets, and a target without identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchreid

from embae_plugin.data.records import (
    ImageRecords,
    ReIDData,
    load_data,
    merge_sources,
    queries_and_gallery,
)
from embae_plugin.settings.config import load_config
from tests.zoo_files import write_market1501, write_viper

ITEMS = [
    ("a.jpg", 3, 1, 0),
    ("b.jpg", 3, 0, 0),
    ("c.jpg", 7, 5, 1),
    ("d.jpg", 8, 1, 1),
    ("e.jpg", 8, 5, 1),
]


def items_of(records):
    columns = (column.tolist() for column in (records.pids, records.camids, records.dsetids))
    return list(zip(records.paths, *columns, strict=True))


def test_items_survive_there_and_back():
    records = ImageRecords.from_items(ITEMS)
    assert len(records) == 5 and items_of(records) == ITEMS
    assert records.pids.dtype == records.camids.dtype == records.dsetids.dtype == np.int64


def test_no_items_at_all():
    records = ImageRecords.from_items([])
    assert len(records) == 0 and items_of(records) == [] and records.camids.shape == (0,)
    assert all(len(records.groups(by)) == 0 for by in ("common", "dataset", "camera"))


@pytest.mark.parametrize(
    ("by", "numbers"),
    [("common", [0, 0, 0, 0, 0]), ("dataset", [0, 0, 1, 1, 1]), ("camera", [1, 0, 3, 2, 3])],
)
def test_groups_are_dense_and_in_the_order_of_dataset_and_camera(by, numbers):
    # camera 1 of the first dataset is not camera 1 of the second
    groups = ImageRecords.from_items(ITEMS).groups(by)
    assert groups.tolist() == numbers and groups.dtype == torch.int64


def test_groups_of_something_else_are_refused():
    with pytest.raises(ValueError, match="groups by 'pid': must be common, dataset or camera"):
        ImageRecords.from_items(ITEMS).groups("pid")


def test_unlabelled_records_hold_no_identity():
    records = ImageRecords.from_items(ITEMS).unlabelled()
    assert records.pids is None and records.paths == tuple(item[0] for item in ITEMS)
    assert records.groups("camera").tolist() == [1, 0, 3, 2, 3]


def test_merged_datasets_keep_their_people_apart():
    first = [("a", 5, 0, 9), ("b", 2, 1, 9), ("c", 5, 1, 9)]
    second = [("d", 2, 0, 0), ("e", 7, 0, 0)]
    assert items_of(merge_sources([first, second])) == [
        ("a", 1, 0, 0), ("b", 0, 1, 0), ("c", 1, 1, 0), ("d", 2, 0, 1), ("e", 3, 0, 1),
    ]


def test_nobody_is_in_no_ranking_and_distractors_are_wrong_answers_only():
    queries, gallery = queries_and_gallery(["7", "", "-1", "0", "0000", "gate", "10"])
    assert queries.tolist() == [True, False, False, False, True, True, True]
    assert gallery.tolist() == [True, False, False, True, True, True, True]
    assert all(mask.shape == (0,) for mask in queries_and_gallery([]))


# --- names of cameras -----------------------------------------------------------------------


def test_cameras_without_names_are_called_by_their_numbers():
    records = ImageRecords.from_items(ITEMS)
    assert records.cameras is None
    assert records.camera_names() == ("1", "0", "5", "1", "5")
    assert records.camera_table() == ("0", "1", "2", "3", "4", "5")


def test_a_camera_is_named_by_its_dataset_and_number():
    records = ImageRecords.from_items(ITEMS, ["market1501", "viper"])
    assert records.camera_names() == (
        "market1501:1", "market1501:0", "viper:5", "viper:1", "viper:5",
    )
    one = ImageRecords.from_items(ITEMS[2:], ["viper"])  # one name stands for all
    assert one.camera_names() == ("viper:5", "viper:1", "viper:5")


def test_the_table_names_every_number_those_without_a_crop_too():
    records = ImageRecords.from_items(ITEMS[2:], ["viper"])
    none = [f"no crop of camera {n}" for n in (0, 2, 3, 4)]
    assert records.camera_table() == (none[0], "viper:1", *none[1:], "viper:5")
    assert ImageRecords.from_items([], ["viper"]).camera_table() == ()
    table = records.camera_table()
    assert tuple(table[n] for n in records.camids) == records.camera_names()


def test_names_stay_with_their_crops():
    records = ImageRecords.from_items(ITEMS, ["a", "b"])
    assert records.rows(np.array([4, 0, 4])).camera_names() == ("b:5", "a:1", "b:5")
    assert records.unlabelled().camera_names() == records.camera_names()
    unnamed = ImageRecords.from_items(ITEMS)
    assert unnamed.rows(np.array([4, 0])).cameras is None
    assert records.fingerprint() == unnamed.fingerprint()


def test_merged_datasets_keep_their_cameras_apart():
    parts = [[("a", 5, 0, 9), ("b", 2, 1, 9)], [("c", 2, 0, 0)]]
    records = merge_sources(parts, ["market1501", "viper"])
    assert records.camera_names() == ("market1501:0", "market1501:1", "viper:0")
    assert records.groups("camera").tolist() == [0, 1, 2]


# --- from torchreid -------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_market1501(tmp_path, train_ids=4, test_ids=3)
    write_viper(tmp_path, identities=6)
    return tmp_path


def config(root: Path, *options: object):
    return load_config(
        options=["data.root", str(root), "data.sources", ["viper"], "data.targets", ["market1501"],
                 *options]
    )


def test_load_data_lists_sources_and_an_unlabelled_target(root):
    data = load_data(config(root))
    assert data.sources == ["viper"] and data.target == "market1501"
    assert len(data.source) == 3 * 2  # half of VIPeR's identities are for testing
    assert set(data.source.pids.tolist()) == {0, 1, 2}
    assert len(data.target_train) == 4 * 2 * 2
    assert data.target_train.pids is None
    assert len(data.query) == 3 * 2 and len(data.gallery) == 3 * 2 * 2
    assert set(data.query.pids.tolist()) == {5, 6, 7}
    assert sorted(set(data.target_train.camids.tolist())) == [0, 1]
    for part in (data.target_train, data.query, data.gallery):
        assert set(part.camera_names()) == {"market1501:0", "market1501:1"}
    assert data.target_train.camera_table() == ("market1501:0", "market1501:1")
    assert set(data.source.camera_names()) == {"viper:0", "viper:1"}


def test_combineall_takes_the_sources_whole_and_the_target_as_before(root):
    data = load_data(config(root, "data.combineall", True))
    assert len(data.source) == 6 * 2 and len(data.target_train) == 4 * 2 * 2


def test_several_sources_are_numbered_in_their_order(root):
    data = load_data(config(root, "data.sources", ["market1501", "viper"], "data.targets", []))
    assert data.source.dsetids.tolist() == [0] * 16 + [1] * 6
    assert sorted(set(data.source.pids.tolist())) == list(range(4 + 3))
    assert data.target == "" and data.target_train is None and data.query is None


def test_a_target_that_is_also_a_source_has_nothing_to_adapt_to(root):
    data = load_data(config(root, "data.sources", ["market1501"]))
    assert data.target_train is None and len(data.query) == 6


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset 'viper': looked for .*viper"):
        load_data(config(tmp_path))
    with pytest.raises(ValueError, match=r"unknown dataset 'marke'; available: .*market1501"):
        load_data(config(tmp_path, "data.sources", ["marke"]))


def test_a_data_manager_gives_the_same_records(root):
    manager = torchreid.data.ImageDataManager(
        root=str(root), sources=["viper"], targets=["market1501"], height=32, width=16,
        use_gpu=False, workers=0, batch_size_train=2, load_train_targets=True,
    )
    theirs, ours = ReIDData.from_datamanager(manager), load_data(config(root))
    for name in ("query", "gallery", "target_train"):
        assert getattr(theirs, name).paths == getattr(ours, name).paths
        assert np.array_equal(getattr(theirs, name).camids, getattr(ours, name).camids)
        assert getattr(theirs, name).camera_names() == getattr(ours, name).camera_names()
    assert theirs.target_train.pids is None
    assert set(theirs.source.camera_names()) == set(ours.source.camera_names())
    assert len(theirs.source) == len(ours.source) and theirs.train_loader is manager.train_loader
    assert ReIDData.from_datamanager(ours) is ours
