"""Folders and tables of crops: which images, which camera, and words for what cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embae_plugin.data import camera_rules
from embae_plugin.data.camera_rules import crops_by_folder, find_images, list_crops
from embae_plugin.data.crops import Crops, describe_cameras, natural_order
from embae_plugin.data.feature_bank import FeatureStore
from tests.crops_world import HEIGHT, WIDTH, picture


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


# --- which images ---------------------------------------------------------------------------


def test_every_format_in_any_case_and_nothing_else(tmp_path, caplog):
    touch(tmp_path, "a/1.jpg", "a/2.JPG", "a/3.Jpeg", "a/4.png", "a/5.BMP", "a/6.webp",
          "a/Thumbs.db", "a/.hidden.jpg", "a/._7.jpg", ".git/8.jpg", "__MACOSX/9.jpg",
          "@eaDir/1.jpg", "a/notes.txt", "a/old.gif", "a/scan.TIFF")
    assert find_images(tmp_path) == [
        os.path.join("a", name)
        for name in ("1.jpg", "2.JPG", "3.Jpeg", "4.png", "5.BMP", "6.webp")
    ]
    assert "not being of a format that is read: 1 .gif, 1 .tiff" in caplog.text


def test_names_with_spaces_and_of_any_script(tmp_path):
    names = ["Tür 1/Frau Müller.jpg", "門/人 2.jpg", "a b/#%20?.jpg", "a b/'\".jpg"]
    crops = crops_by_folder(touch(tmp_path, *names))
    assert set(crops.names) == {name.replace("/", os.sep) for name in names}
    assert crops.camera_names == ("Tür 1", "a b", "門")
    assert all(Path(path).is_file() for path in crops.records().paths)


def test_numbers_in_names_count_by_value(tmp_path):
    crops = crops_by_folder(touch(tmp_path, "cam_10/1.jpg", "cam_2/10.jpg", "cam_2/9.jpg"))
    assert crops.camera_names == ("cam_2", "cam_10")
    assert [Path(name).name for name in crops.names] == ["9.jpg", "10.jpg", "1.jpg"]
    assert sorted(["b", "a10", "a2", "10", "a"], key=natural_order) == [
        "a", "a2", "a10", "b", "10"
    ]


def test_a_loop_of_links_ends_and_linked_folders_are_read(tmp_path):
    touch(tmp_path / "elsewhere", "x.jpg")
    root = touch(tmp_path / "crops", "a/1.jpg")
    (root / "a" / "again").symlink_to(root)
    (root / "b").symlink_to(tmp_path / "elsewhere")
    crops = crops_by_folder(root)
    assert crops.counts() == {"a": 1, "b": 1}


def test_no_such_folder_a_file_and_nothing_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match=r"x\.jpg is a file: give the folder"):
        find_images(touch(tmp_path, "x.jpg") / "x.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*empty: looked for \.jpg, .* below$"):
        find_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"and found only 1 \.gif"):
        find_images(touch(tmp_path / "gifs", "a.gif"))


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def walk(root, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", os.path.join(root, "secret")))
        return iter(())

    monkeypatch.setattr(camera_rules.os, "walk", walk)
    with pytest.raises(PermissionError, match="secret"):
        find_images(tmp_path)


# --- which camera ---------------------------------------------------------------------------


def test_cameras_from_folders(tmp_path):
    root = touch(tmp_path, "yard/2024/may/1.jpg", "gate/2.jpg", "yard/3.jpg")
    crops = list_crops(root)
    assert crops.counts() == {"gate": 1, "yard": 2}
    records = crops.records()
    assert records.pids is None and records.camids.tolist() == [0, 1, 1]
    assert records.camera_names() == crops.cameras == ("gate", "yard", "yard")
    assert records.camera_table() == crops.camera_names == ("gate", "yard")
    assert crops.numbers().tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.jpg", "2.jpg"], r"all images lie directly .*such as 1\.jpg.*--camera-regex 'c\(\?P"),
        (["a/1.jpg", "2.jpg"], r"1 of 2 images lie directly"),
        (
            ["0001_c1s1_1.jpg", "0001_c2s1_1.jpg"],
            r"--camera-regex '_c\(\?P<camera>\\d\+\)' \(which fits all of these\)",
        ),
        (["cam-a_1.jpg", "cam-b_1.jpg"], r"\(which fits all of these\)"),
    ],
)
def test_images_whose_camera_no_folder_tells(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        list_crops(touch(tmp_path, *names))


def test_cameras_from_a_regular_expression(tmp_path):
    root = touch(tmp_path, "day1/p_c2_1.jpg", "day2/p_c1_1.jpg", "day2/other.jpg")
    crops = list_crops(root, camera_regex=r"day\d/.*_c(?P<camera>\d)")
    assert crops.counts() == {"1": 1, "2": 1}
    assert crops.skipped == [
        (str(root / "day2" / "other.jpg"), "--camera-regex tells no camera")
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is no regular expression"),
        (r"c(\d)", "no group named camera"),
        (r"k(?P<camera>\d)", r"fits none of the 1 images in .*\n  a.x\.jpg"),
    ],
)
def test_a_regular_expression_that_cannot_serve(tmp_path, pattern, message):
    with pytest.raises(ValueError, match=message):
        list_crops(touch(tmp_path, "a/x.jpg"), camera_regex=pattern)


def test_cameras_from_a_table(tmp_path):
    table = tmp_path / "crops.csv"
    lines = ["\ufeffpath, camid,pid", "x/1.jpg,gate,7", "/abs/2.jpg,yard,", "3.jpg,gate"]
    table.write_text("\n".join(lines), "utf-8")
    crops = list_crops(table=table)
    assert crops.cameras == ("gate", "yard", "gate") and crops.pids == ("7", "", "")
    assert crops.records().paths == (
        str(tmp_path / "x/1.jpg"), "/abs/2.jpg", str(tmp_path / "3.jpg")
    )
    assert crops.records().pids is None, "the engines never see identities"
    other = list_crops(tmp_path / "images", table)
    assert other.records().paths[0] == str(tmp_path / "images" / "x/1.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path: .* and is empty"),
        ("file,camid\n", r"no column path: .*and is file,camid"),
        ("path,pid\n", "no column camid"),
        ("path,camid\n", "lists no images"),
        ("path,camid\na.jpg,\n", "line 2: path or camid is empty"),
        ("path,camid\na.jpg\n", "line 2: path or camid is empty"),
        ("path,camid\na.jpg,1\n\na.jpg,2\n", r"line 4: a\.jpg is on line 2 already"),
    ],
)
def test_a_table_that_cannot_serve(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        list_crops(table=tmp_path / "t.csv")


def test_tables_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_crops(table=tmp_path / "none.csv")
    (tmp_path / "t.csv").write_bytes("path,camid\nä.jpg,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not a table of UTF-8 text"):
        list_crops(table=tmp_path / "t.csv")
    with pytest.raises(ValueError, match="not both"):
        list_crops(tmp_path, tmp_path / "t.csv", "x")
    with pytest.raises(ValueError, match="--images, or a table with --csv"):
        list_crops()


# --- what cannot be used --------------------------------------------------------------------


def tiny_crops(root: Path) -> Crops:
    for n in range(5):
        (root / "gate").mkdir(parents=True, exist_ok=True)
        picture(n, 0, 0).save(root / "gate" / f"{n}.png")
    (root / "gate" / "1.png").write_bytes((root / "gate" / "1.png").read_bytes()[:60])
    Image.new("RGB", (1, 1)).save(root / "gate" / "3.png")
    return crops_by_folder(root)


@pytest.mark.parametrize("in_file", [False, True])
def test_images_that_cannot_be_used_are_found_while_decoding(tmp_path, monkeypatch, in_file):
    crops = tiny_crops(tmp_path / "crops")
    cache = tmp_path / "cache" if in_file else ""
    store = FeatureStore(HEIGHT, WIDTH, [0.5] * 3, [0.5] * 3, image_cache_dir=cache)
    kept = crops.without(store.try_images(crops.records(), "crops", least_side=8))
    assert [Path(name).name for name in kept.names] == ["0.png", "2.png", "4.png"]
    reasons = {Path(path).name: reason for path, reason in kept.skipped}
    assert "damaged" in reasons.pop("1.png")
    assert reasons == {"3.png": "1 x 1 pixels: fewer than 8 on a side"}
    monkeypatch.setattr("embae_plugin.data.image_bank.decode", None)  # not decoded once more
    images = store.images(kept.records(), "crops").images
    expected = [np.asarray(picture(n, 0, 0)) for n in (0, 2, 4)]
    assert np.array_equal(images.numpy(), np.stack(expected))


def test_nothing_is_left(tmp_path):
    touch(tmp_path, "gate/1.png", "gate/2.png")
    crops = crops_by_folder(tmp_path)
    store = FeatureStore(HEIGHT, WIDTH, [0.5] * 3, [0.5] * 3)
    kept = crops.without(store.try_images(crops.records(), "crops"))
    with pytest.raises(ValueError, match=r"2 of 2 images cannot be used:\n.*\n.*\nnone is left"):
        kept.check_skipped(1.0)


def test_the_share_that_may_be_bad():
    crops = Crops(Path("r"), tuple("abcdefghi"), ("x",) * 9, None, [("r/j", "damaged")])
    crops.check_skipped(0.1)
    with pytest.raises(ValueError, match=r"1 of 10 .*\n  r/j: damaged\n.*--max-bad \(now 0\.09"):
        crops.check_skipped(0.09)
    Crops(Path("r"), ("a",), ("x",)).check_skipped(0.0)
    many = Crops(Path("r"), ("a",), ("x",), None, [(str(n), "bad") for n in range(12)])
    with pytest.raises(ValueError, match="and 2 more"):
        many.check_skipped(0.5)


def test_a_part_and_without_keep_columns_together():
    crops = Crops(Path("r"), ("a", "b", "c"), ("x", "y", "x"), ("1", "2", ""))
    part = crops.part(1, 3)
    assert (part.names, part.cameras, part.pids) == (("b", "c"), ("y", "x"), ("2", ""))
    left = crops.without([(str(Path("r") / "b"), "bad")])
    assert (left.names, left.cameras, left.pids) == (("a", "c"), ("x", "x"), ("1", ""))
    assert crops.without([]) is crops


def test_the_description_warns_of_cameras_with_few_images():
    crops = Crops(Path("r"), ("a",) * 1252, ("yard",) * 1203 + ("gate",) * 49)
    assert describe_cameras(crops).splitlines() == [
        "1,252 images on 2 camera(s)",
        "  gate      49   few",
        "  yard   1,203",
        "1 camera(s) with fewer than 50 images: little can be learned of them; collect more if "
        "you can",
    ]
