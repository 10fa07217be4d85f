"""WARD, on made-up files in its layout."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.datasets.ward import WARD, query_and_gallery, split_people, ward_items


def write(folder: Path, people: int = 6, cameras: int = 3, images: int = 4, suffix: str = "png"):
    folder.mkdir(parents=True, exist_ok=True)
    for person in range(1, people + 1):
        for camera in range(1, cameras + 1):
            for number in range(1, images + 1):
                path = folder / f"{person:04d}{camera:04d}{number:04d}.{suffix}"
                Image.new("RGB", (48, 128), (person, camera, number)).save(path, "PNG")
    return folder


def load(root: Path, **kwargs: object) -> WARD:
    return WARD(root=str(root), verbose=False, **kwargs)


def names(items: list[tuple[str, int, int, int]]) -> list[str]:
    return [Path(path).name for path, *_ in items]


def test_halves_by_person(tmp_path):
    write(tmp_path / "ward")
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (36, 9, 27)
    assert {pid for _, pid, _, _ in dataset.train} == {0, 1, 2}
    assert {camid for _, _, camid, _ in dataset.train} == {0, 1, 2}
    train_people = {int(name[:4]) for name in names(dataset.train)}
    test_people = {int(name[:4]) for name in names(dataset.query)}
    assert train_people | test_people == set(range(1, 7)) and not train_people & test_people
    assert all(name.endswith("0001.png") for name in names(dataset.query))
    for path, pid, camid, _ in dataset.gallery:
        assert (int(Path(path).name[:4]), int(Path(path).name[4:8]) - 1) == (pid, camid)


def test_split_ids_are_fixed_and_different(tmp_path):
    write(tmp_path / "ward")
    splits = [frozenset(n[:4] for n in names(load(tmp_path, split_id=i).train)) for i in range(6)]
    assert splits == [frozenset(f"{p:04d}" for p in split_people(list(range(1, 7)), i))
                      for i in range(6)]
    assert len(set(splits)) > 1
    assert len(split_people(list(range(70)), 0)) == 35 and len(split_people([4, 5, 9], 0)) == 1


def test_combineall_takes_every_image(tmp_path):
    write(tmp_path / "ward")
    dataset = load(tmp_path, combineall=True)
    assert len(dataset.train) == 72 and dataset.num_train_pids == 6


@pytest.mark.parametrize("place", ["ward", "WARD", "ward/WARD", "Ward/WARD/original"])
def test_places_in_which_it_is_found(place, tmp_path):
    write(tmp_path / place, images=2)
    assert len(load(tmp_path).train) == 18


def test_upper_case_suffix(tmp_path):
    write(tmp_path / "ward", images=2, suffix="PNG")
    assert len(load(tmp_path).train) == 18


def test_by_its_name(tmp_path):
    write(tmp_path / "ward")
    dataset = bridge.init_image_dataset("ward", root=str(tmp_path), mode="query", verbose=False)
    assert dataset[0]["img"].size == (48, 128)


def test_other_numbers_are_only_a_warning(tmp_path, caplog):
    write(tmp_path / "ward")
    load(tmp_path)
    assert "but WARD has Counts(images=4786, ids=70, cams=3)" in caplog.text


def test_other_files_are_counted(tmp_path, caplog):
    folder = write(tmp_path / "ward")
    (folder / "readme.txt").write_text("x")
    (folder / "0001000100.png").write_text("x")
    (folder / "000100000001.png").write_text("x")  # there is no camera 0
    with caplog.at_level(logging.WARNING):
        assert len(ward_items(folder)) == 72
    assert "3 files ignored, e.g. 000100000001.png" in caplog.text


def test_nothing_there(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"looked for .*ward, .*AVIRES.*4786"):
            load(root)


def test_no_file_of_that_kind(tmp_path):
    folder = tmp_path / "ward"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"none of the 0 files in .* is named PPPPCCCCNNNN\.png"):
        load(tmp_path)
    (folder / "a.png").write_text("x")
    with pytest.raises(ValueError, match=r"none of the 1 files.*e\.g\. a\.png"):
        load(tmp_path)


def test_too_few(tmp_path):
    write(tmp_path / "one" / "ward", people=1)
    with pytest.raises(ValueError, match="images of person 1 only"):
        load(tmp_path / "one")
    write(tmp_path / "flat" / "ward", images=1)
    with pytest.raises(ValueError, match="leaves no gallery"):
        load(tmp_path / "flat")
    with pytest.raises(ValueError, match="split_id of WARD is -1"):
        load(tmp_path, split_id=-1)


def test_people_without_gallery_are_no_queries(tmp_path):
    folder = write(tmp_path / "ward", people=2, cameras=2, images=1)
    Image.new("RGB", (48, 128)).save(folder / "000200020002.png")
    query, gallery = query_and_gallery(ward_items(folder))
    assert [Path(path).name for path, *_ in query] == ["000200010001.png", "000200020001.png"]
    assert [Path(path).name for path, *_ in gallery] == ["000200020002.png"]
