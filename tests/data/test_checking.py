"""Checks of data sets: counts against torchreid's own, each state, and that nothing is written."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data import layouts
from embae_plugin.data.checking import CHECKED, check, check_all, table
from embae_plugin.data.datasets.generation import generate
from embae_plugin.torchreid_bridge.known_datasets import SOURCES, Counts
from tests.zoo_files import write_image, write_market1501, write_viper


def publish(monkeypatch, name, **published):
    """Pretends that data set ``name`` was published with these counts."""
    source = replace(SOURCES[name], published=published)
    monkeypatch.setitem(SOURCES, name, source)


def tree(root):
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))


def test_published_counts_add_up():
    total = {
        name: sum(part.images for part in SOURCES[name].published.values())
        for name in ("market1501", "dukemtmcreid", "cuhk03")
    }
    # Market-1501: 12,936 + 19,732 + 3,368 files, of which 3,819 are junk; CUHK03: both versions.
    assert total == {"market1501": 36036 - 3819, "dukemtmcreid": 36411, "cuhk03": 14097 + 14096}


def test_counts_are_those_of_torchreid(market_root):
    folder = market_root / "market1501" / "Market-1501-v15.09.15" / "bounding_box_test"
    write_image(folder / "-1_c1s1_000001_00.jpg")
    write_image(folder / "0000_c3s1_000001_00.jpg")
    before = tree(market_root)
    found = check("market1501", market_root)
    assert tree(market_root) == before
    dataset = bridge.init_image_dataset("market1501", root=str(market_root), verbose=False)
    for part in ("train", "query", "gallery"):
        items = getattr(dataset, part)
        counts = found.found[part]
        assert counts.images == len(items)
        assert counts.ids == len(
            {pid for _, pid, *_ in items} - ({0} if part == "gallery" else set())
        )
        assert counts.cams == len({camid for _, _, camid, _ in items})
    assert found.found["gallery"] == Counts(13, 3, 3)


def test_a_subset_differs_and_the_whole_is_complete(market_root, monkeypatch):
    found = check("market1501", market_root)
    assert (found.state, found.usable) == ("differs", False)
    assert "other counts than published" in found.messages[0]
    publish(monkeypatch, "market1501", **found.found)
    assert (check("market1501", market_root).state, found.found["train"]) == (
        "complete",
        Counts(16, 4, 2),
    )


def test_market1501_without_its_inner_folder(market_root):
    folder = market_root / "market1501"
    for path in list((folder / "Market-1501-v15.09.15").iterdir()):
        path.rename(folder / path.name)
    (folder / "Market-1501-v15.09.15").rmdir()
    assert check("market1501", market_root).found["train"] == Counts(16, 4, 2)


def test_missing_and_withdrawn(tmp_path):
    found = check("market1501", tmp_path)
    assert found.state == "missing" and "embae data get market1501" in found.messages[0]
    duke = check("dukemtmcreid", tmp_path)
    assert duke.state == "missing"
    assert "withdrawn by its authors" in duke.messages[0] and "http" not in duke.messages[0]
    assert "missing (withdrawn)" in table([duke], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_incomplete_names_what_lacks(market_root):
    folder = market_root / "market1501" / "Market-1501-v15.09.15"
    (folder / "query").rename(folder / "queries")
    found = check("market1501", market_root)
    assert found.state == "incomplete" and str(folder / "query") in found.messages[0]


@pytest.mark.parametrize(
    ("name", "message"), [("holiday.jpg", "named otherwise"), ("0001_c1s1_1_00.jpg", "empty")]
)
def test_damaged_files_are_named(market_root, name, message):
    (market_root / "market1501/Market-1501-v15.09.15/query" / name).write_bytes(b"")
    found = check("market1501", market_root)
    assert found.state == "damaged"
    assert f"1 *.jpg {message}" in found.messages[0] and name in found.messages[0]


def test_duke_has_no_junk(tmp_path, monkeypatch):
    write_market1501(tmp_path, cameras=3)
    (tmp_path / "market1501" / "Market-1501-v15.09.15").rename(
        tmp_path / "market1501/DukeMTMC-reID"
    )
    (tmp_path / "market1501").rename(tmp_path / "dukemtmc-reid")
    found = check("dukemtmcreid", tmp_path).found
    assert found == {
        "train": Counts(24, 4, 3), "query": Counts(9, 3, 3), "gallery": Counts(18, 3, 3)
    }


def test_viper_and_its_splits(tmp_path, monkeypatch):
    folder = write_viper(tmp_path, 6)
    publish(monkeypatch, "viper", all=Counts(12, 6, 2))
    assert check("viper", tmp_path).state == "complete"
    assert sorted(os.listdir(folder)) == ["VIPeR"]
    splits = folder / "splits.json"
    splits.write_text("[{", encoding="utf-8")
    assert (
        f"{splits} can't be read (JSONDecodeError); delete it"
        in check("viper", tmp_path).messages[0]
    )
    there = str(folder / "VIPeR/cam_a/000_0.bmp")
    splits.write_text(json.dumps([{"train": [[there, 0, 0]]}]), encoding="utf-8")
    assert check("viper", tmp_path).state == "complete"
    splits.write_text(json.dumps([{"train": [["/gone/000_0.bmp", 0, 0]]}]), encoding="utf-8")
    found = check("viper", tmp_path)
    assert found.state == "damaged" and "folder that was moved (/gone" in found.messages[0]
    splits.unlink()
    (folder / "VIPeR/cam_b/003_90.bmp").unlink()
    assert "1 people are in one camera only, e.g. person 3" in check("viper", tmp_path).messages[0]


def test_cuhk01_has_two_views(tmp_path, monkeypatch):
    for name in ("0001001", "0001002", "0001003", "0001004", "0002001", "0002003"):
        write_image(tmp_path / "cuhk01/campus" / f"{name}.png")
    assert check("cuhk01", tmp_path).found == {"all": Counts(6, 2, 2)}
    (tmp_path / "cuhk01/campus").rename(tmp_path / "elsewhere")
    (tmp_path / "cuhk01/CUHK01.zip").write_bytes(b"zip")
    found = check("cuhk01", tmp_path)
    assert found.state == "incomplete" and "has not been unpacked" in found.messages[0]


def test_ward_in_any_case(tmp_path):
    for person, camera, image in ((1, 1, 1), (1, 2, 1), (2, 3, 1)):
        write_image(tmp_path / "WARD/crops" / f"{person:04d}{camera:04d}{image:04d}.png")
    found = check("ward", tmp_path)
    assert (found.state, found.found) == ("differs", {"all": Counts(3, 2, 3)})
    assert found.folder == str(tmp_path / "WARD")


def write_cuhk03(root, people=3):
    """The release's and the split files' layout, with ``people`` people."""
    folder = root / "cuhk03"
    (folder / "cuhk03_release").mkdir(parents=True)
    with h5py.File(folder / "cuhk03_release" / "cuhk-03.mat", "w") as file:
        for kind in ("detected", "labeled"):
            pairs = [
                file.create_dataset(f"{kind}{n}", data=np.zeros((10, n))) for n in (1, people - 1)
            ]
            refs = file.create_dataset(kind, (1, 2), dtype=h5py.ref_dtype)
            refs[0, 0], refs[0, 1] = pairs[0].ref, pairs[1].ref
    names = [f"1_{p:03d}_{view}_{view:02d}.png" for p in range(people) for view in (1, 2)]
    split = {
        "filelist": np.array(names, dtype=object)[:, None],
        "labels": np.repeat(np.arange(people), 2)[:, None],
        "train_idx": np.array([[1], [2]]),
        "query_idx": np.array([[3]]),
        "gallery_idx": np.arange(4, 2 * people + 1)[:, None],
    }
    for kind in ("detected", "labeled"):
        savemat(folder / f"cuhk03_new_protocol_config_{kind}.mat", split)
    return folder, names


def test_cuhk03_is_counted_without_extracting_it(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_PEOPLE_OF_CUHK03", 3)
    folder, names = write_cuhk03(tmp_path)
    before = tree(tmp_path)
    found = check("cuhk03", tmp_path)
    assert tree(tmp_path) == before
    parts = [Counts(2, 1, 2), Counts(1, 1, 1), Counts(3, 2, 2)]
    assert list(found.found.values()) == parts * 2
    assert list(found.found) == list(SOURCES["cuhk03"].published)
    publish(monkeypatch, "cuhk03", **found.found)
    found = check("cuhk03", tmp_path)
    assert found.state == "complete" and "extracts them on first use" in found.messages[0]
    for name in names[1:]:
        write_image(folder / "images_detected" / name)
    found = check("cuhk03", tmp_path)
    assert (
        found.state == "damaged"
        and f"lacks 1 images of the split, e.g. {names[0]}" in found.messages[0]
    )


def test_cuhk03_damaged(tmp_path, monkeypatch):
    folder, _ = write_cuhk03(tmp_path)
    assert "has 3 detected people, not 1467" in check("cuhk03", tmp_path).messages[0]
    (folder / "cuhk03_release/cuhk-03.mat").write_bytes(b"not HDF5")
    (folder / "cuhk03_new_protocol_config_labeled.mat").write_bytes(b"")
    text = " ".join(check("cuhk03", tmp_path).messages)
    assert "cuhk-03.mat can't be read" in text and "config_labeled.mat can't be read" in text
    (folder / "cuhk03_new_protocol_config_labeled.mat").unlink()
    found = check("cuhk03", tmp_path)
    assert found.state == "incomplete" and "config_labeled.mat" in found.messages[0]


def test_built_in_sets(tmp_path):
    name = "synthetic_source_b"
    assert check(name, tmp_path).state == "built in" and check(name, tmp_path).usable
    folder = generate(name, tmp_path, scale=0.02, seed=3, workers=1)
    found = check(name, tmp_path)
    assert (found.state, found.messages) == ("complete", ("drawn with scale 0.02, seed 3",))
    assert found.found["train"].ids == 4
    min(folder.glob("*.png")).unlink()
    found = check(name, tmp_path)
    assert found.state == "damaged" and "will be drawn anew" in found.messages[-1]
    (folder / "generator.json").unlink()
    assert "was not made by the generator" in check(name, tmp_path).messages[0]


def test_all_of_them_and_the_table(market_root):
    checks = check_all(market_root)
    assert tuple(item.name for item in checks) == CHECKED
    text = table(checks, market_root)
    assert "16 / 12,936" in text and "– / 4,786" in text
    assert "ward: Ask for WARD" in text


def test_mistakes(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown data set 'market', expected one of market1501, "
    ):
        check_all(tmp_path, ["market"])
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        check_all(tmp_path / "nowhere")


def test_real_data(reid_data_root):
    states = {name: check(name, reid_data_root).state for name in ("viper", "cuhk01")}
    assert states == {"viper": "complete", "cuhk01": "complete"}
