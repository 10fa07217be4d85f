"""Full disks, files that vanish, change or are no images, weights that are no numbers."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin.data.feature_bank import keep_array
from embae_plugin.data.image_bank import CorruptImageError, ImageBank
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.score_table import write_results, write_text
from embae_plugin.training import loop
from embae_plugin.training.run_identity import load_checkpoint, load_weights, save_checkpoint
from tests.faults.world import outcome, records, run, start
from tests.methods.tiny import two_layer_model

PATIENCE = 120


def no_file_above(size: int, function, *arguments) -> None:
    """Runs a function while the system refuses to write past ``size`` bytes of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        function(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- a full disk ----------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_the_run_goes_on_from_it(
    world, tmp_path
):
    out, log, whole = tmp_path / "run", tmp_path / "log", tmp_path / "whole"
    process = start(run, world, whole)
    process.join(PATIENCE)

    def full_at_the_third_save() -> None:
        saved, save = [], loop.save_checkpoint

        def counted(path: Path, payload: dict) -> None:
            saved.append(path)
            no_file_above(1000 if len(saved) == 3 else -1, save, path, payload)

        loop.save_checkpoint = counted
        run(world, out)

    process = start(full_at_the_third_save, log=log)
    process.join(PATIENCE)
    text = log.read_text(encoding="utf-8")
    last = out / "embedding" / "last.pth"
    assert process.exitcode == 1 and f"cannot write the checkpoint {last}" in text
    assert "Free some space" in text and not list(out.rglob(".*"))
    assert load_checkpoint(last)["position"] == [0, 2, 0]
    process = start(run, world, out)
    process.join(PATIENCE)
    assert process.exitcode == 0 and outcome(out) == outcome(whole)


def test_features_that_do_not_fit_are_not_kept_and_the_run_goes_on(tmp_path, caplog):
    def try_to_keep() -> None:
        with caplog.at_level("WARNING"):
            keep_array(tmp_path / "features.npy", np.zeros((100, 2, 64), dtype=np.float32))
        (tmp_path / "told").write_text(caplog.text, encoding="utf-8")

    process = start(no_file_above, 10_000, try_to_keep)
    process.join(PATIENCE)
    told = (tmp_path / "told").read_text(encoding="utf-8")
    assert process.exitcode == 0
    assert "features are not kept for a later run" in told and "features.npy" in told
    assert os.listdir(tmp_path) == ["told"]


def test_results_that_do_not_fit_name_the_file_and_leave_the_old_ones(tmp_path):
    path, log = tmp_path / "results.json", tmp_path / "log"
    write_text(path, "old")
    rows = [{"variant": "x" * 9000}]
    process = start(no_file_above, 4096, write_results, path, "t", rows, log=log)
    process.join(PATIENCE)
    text = log.read_text(encoding="utf-8")
    assert process.exitcode == 1 and "not written: File too large" in text and str(path) in text
    assert path.read_text(encoding="utf-8") == "old"
    assert sorted(os.listdir(tmp_path)) == ["log", "results.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "last.pth", {})
    tmp_path.chmod(0o700)


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "embedding").write_bytes(b"")
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*embedding"):
        save_checkpoint(tmp_path / "embedding" / "last.pth", {})


# --- images that vanish, change, or are none ------------------------------------------------


def copy_of(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "copy"))


def test_an_image_that_goes_after_it_was_listed_is_named(world, tmp_path):
    folder = copy_of(world, tmp_path) / "a"
    listed = records(folder)
    gone = Path(listed.paths[7])
    gone.unlink()
    with pytest.raises(CorruptImageError, match=r"1 image file.*\n.*the file does not exist") as e:
        ImageBank(listed.paths, 8, 8)
    assert e.value.failures == [(str(gone), "the file does not exist")]


@pytest.mark.parametrize("change", ["removed", "exchanged", "grown", "relabelled"])
def test_other_files_than_the_stopped_run_had_are_noticed(world, tmp_path, change):
    """By names, sizes and labels, at the same number of images."""
    folder = copy_of(world, tmp_path) / "a"
    before = records(folder)
    sizes = [Path(p).stat().st_size for p in before.paths[3:5]]
    image = Path(before.paths[3])
    if change == "removed":  # and another one added
        image.rename(folder / "0009_c0_0.png")
    elif change == "exchanged":
        other = Path(before.paths[4])
        image.rename(folder / "x")
        other.rename(image)
        (folder / "x").rename(other)
    elif change == "grown":
        with image.open("ab") as stream:
            stream.write(b"\0")
    after = records(folder)
    if change == "relabelled":
        after.pids[0] += 1
    assert len(after) == len(before)
    fresh = records(copy_of(world, tmp_path / "fresh") / "a")
    assert fresh.fingerprint() == records(world / "a").fingerprint()  # another place is no change
    if change != "exchanged" or sizes[0] != sizes[1]:
        assert after.fingerprint() != fresh.fingerprint()


def test_odd_paths_have_a_fingerprint():
    def of(*paths: str) -> str:
        return ImageRecords.from_items([(p, 0, 0, 0) for p in paths]).fingerprint()

    names = ["a.jpg", "/a.jpg", "ä b/ü.jpg", "\udcff.jpg", "nul\0.jpg", ""]
    assert len({of(name, "/b/c.jpg") for name in names}) == len(names)
    assert of() != of("a.jpg")


def test_a_changed_source_is_refused_by_name(world, tmp_path):
    mine, log = copy_of(world, tmp_path), tmp_path / "log"
    process = start(run, mine, tmp_path / "run")
    process.join(PATIENCE)
    image = sorted((mine / "a").iterdir())[0]
    Image.open(image).rotate(180).resize((20, 40)).save(image)
    process = start(run, mine, tmp_path / "run", log=log)
    process.join(PATIENCE)
    text = log.read_text(encoding="utf-8")
    assert process.exitcode == 1 and "comes from a run with other settings" in text
    assert "image files (names, sizes, labels): '" in text


def write_bad(folder: Path) -> list[Path]:
    """One of each kind of file that is no usable image."""
    good = folder / "good.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    content = {
        "truncated.jpg": good.read_bytes()[:300], "empty.png": b"", "text.jpg": b"not an image",
        "zip.png": b"PK\3\4" + bytes(100), "page.jpg": b"<html></html>",
        "header.gif": b"GIF89a\xff\xff\xff\xff",
    }
    for name, value in content.items():
        (folder / name).write_bytes(value)
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    return [*(folder / name for name in content), folder / "folder.jpg", folder / "loop.jpg"]


def test_all_that_is_no_image_is_named_at_once(tmp_path, monkeypatch):
    bad = write_bad(tmp_path)
    big = tmp_path / "bomb.png"
    Image.new("1", (4000, 4000)).save(big)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(CorruptImageError) as caught:
        ImageBank([str(tmp_path / "good.jpg"), *map(str, bad), str(big)], 8, 8)
    assert {path for path, _ in caught.value.failures} == {*map(str, bad), str(big)}


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "L", "LA", "RGBA", "1", "I", "F"])
def test_unusual_pixels_become_rgb(tmp_path, mode):
    path = tmp_path / f"x{'.jpg' if mode == 'CMYK' else '.tif'}"
    grey = Image.fromarray(np.linspace(0, 255, 64 * 32).reshape(64, 32).astype(np.uint8))
    (Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257) if mode == "I;16"
     else grey.convert("RGB").convert(mode)).save(path)
    bank = ImageBank([str(path)], 16, 8)
    assert bank.images.shape == (1, 16, 8, 3) and bank.images.dtype == torch.uint8


# --- numbers that are none --------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    model = two_layer_model()
    state = model.state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = value
    save_checkpoint(tmp_path / "w.pth", {"model": state})
    fresh = two_layer_model()
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.pth holds NaN or infinite weights: {name}"):
        load_weights(fresh, tmp_path / "w.pth")
    assert all(torch.equal(before[key], tensor) for key, tensor in fresh.state_dict().items())
    assert load_checkpoint(tmp_path / "w.pth")
