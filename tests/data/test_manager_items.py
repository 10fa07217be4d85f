"""Reading torchreid's ImageDataManager."""

from __future__ import annotations

import pytest

from embae_plugin import torchreid_bridge as bridge
from tests.zoo_files import write_market1501, write_viper


@pytest.fixture
def root(tmp_path):
    """A root with tiny stand-ins for Market-1501 and VIPeR."""
    write_market1501(tmp_path)
    write_viper(tmp_path)
    return tmp_path


def manager(root, **options):
    small = {"height": 16, "width": 8, "workers": 0, "use_gpu": False, "batch_size_train": 2}
    return bridge.build_datamanager(root=str(root), **{**small, **options})


def test_one_source(root):
    items = bridge.train_items(manager(root, sources="market1501"))
    assert items == bridge.dataset_split("market1501", root, "train")


def test_several_sources_are_kept_apart(root):
    items = bridge.train_items(manager(root, sources=["viper", "market1501"]))
    viper, market = ([item for item in items if item[3] == d] for d in (0, 1))
    assert items == viper + market
    assert (len(viper), len(market)) == (6, 16)
    assert {item[1] for item in viper} == {0, 1, 2}
    assert {item[1] for item in market} == {3, 4, 5, 6}
    assert {item[2] for item in market} == {2, 3}


@pytest.mark.parametrize("combineall", [False, True])
@pytest.mark.parametrize("load_train_targets", [False, True])
def test_target_comes_without_identities(root, load_train_targets, combineall):
    built = manager(
        root, sources="viper", targets="market1501", load_train_targets=load_train_targets,
        combineall=combineall,
    )
    items = bridge.target_train_items(built)
    labelled = bridge.dataset_split("market1501", root, "train")
    assert items == [(path, bridge.UNLABELLED, camid, 0) for path, _, camid, _ in labelled]


@pytest.mark.parametrize("load_train_targets", [False, True])
def test_several_targets(root, load_train_targets):
    write_market1501(root / "more", train_ids=3)
    (root / "more" / "market1501").rename(root / "dukemtmc-reid")
    (root / "dukemtmc-reid" / "Market-1501-v15.09.15").rename(root / "dukemtmc-reid/DukeMTMC-reID")
    built = manager(
        root, sources="viper", targets=["market1501", "dukemtmcreid"],
        load_train_targets=load_train_targets,
    )
    items = bridge.target_train_items(built)
    assert [(item[2], item[3]) for item in items] == [(0, 0), (0, 0), (1, 0), (1, 0)] * 4 + [
        (2, 1), (2, 1), (3, 1), (3, 1)
    ] * 3


def test_query_and_gallery(root):
    built = manager(root, sources="viper", targets="market1501")
    query, gallery = bridge.test_items(built, "market1501")
    assert query == bridge.dataset_split("market1501", root, "query")
    assert gallery == bridge.dataset_split("market1501", root, "gallery")


def test_transforms(root):
    built = manager(
        root, sources="market1501", transforms=["random_flip", "random_erase", "color_jitter"],
        norm_mean=[0.5, 0.25, 0.5], norm_std=[0.5, 0.5, 1.0],
    )
    settings = bridge.transforms_of(built)
    assert settings["transforms"] == ["random_flip", "color_jitter", "random_erase"]
    assert (settings["height"], settings["width"]) == (16, 8)
    assert (settings["norm_mean"], settings["norm_std"]) == ((0.5, 0.25, 0.5), (0.5, 0.5, 1.0))


def test_no_augmentation(root):
    built = manager(root, sources="market1501", transforms=[])
    assert bridge.transforms_of(built)["transforms"] == []


def test_manager_reports_missing_data_like_a_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset 'viper': looked for .*nothing is down"):
        manager(tmp_path, sources="viper")
    assert bridge.library.datamanagers.init_image_dataset is not bridge.init_image_dataset
