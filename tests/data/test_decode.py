"""Damaged files are all named, and unusual ones are read as torchreid reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchreid
from PIL import Image
from torchvision.transforms import functional as tvf

from embae_plugin.data.image_bank import CorruptImageError, ImageBank, decode

HEIGHT, WIDTH = 32, 16


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Good files."""
    names = [str(tmp_path / f"fine{number}.jpg") for number in range(4)]
    for number, name in enumerate(names):
        Image.fromarray(noise(20, 12, seed=number)).save(name)
    return names


@pytest.fixture
def corrupt(tmp_path: Path) -> dict[str, str]:
    """File name to the reason that is to be given."""
    good = tmp_path / "good.jpg"
    Image.fromarray(noise(64, 32)).save(good)
    Image.fromarray(noise(64, 32)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:700])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "folder.jpg").mkdir()
    reasons = {"cut.png": "damaged", "cut.jpg": "damaged", "empty.jpg": "empty file",
               "text.png": "not an image", "gone.jpg": "does not exist",
               "folder.jpg": "damaged"}
    return {str(tmp_path / name): reason for name, reason in reasons.items()}


@pytest.mark.parametrize("cached", [False, True])
def test_every_file_that_cannot_be_read_is_listed_at_once(paths, corrupt, tmp_path, cached):
    folder = tmp_path / "cache"
    mixed = [*paths[:2], *corrupt, *paths[2:]]
    with pytest.raises(CorruptImageError) as caught:
        ImageBank(mixed, HEIGHT, WIDTH, cache_dir=folder if cached else "")
    failures = dict(caught.value.failures)
    assert set(failures) == set(corrupt)
    for path, reason in corrupt.items():
        assert reason in failures[path]
        assert path in str(caught.value)
    assert str(caught.value).startswith("6 image file(s) cannot be read")
    assert not cached or list(folder.iterdir()) == []


def test_a_long_list_of_failures_is_cut_in_the_message_alone():
    error = CorruptImageError([(f"{n}.jpg", "damaged") for n in range(25)])
    assert len(error.failures) == 25 and isinstance(error, ValueError)
    assert "9.jpg" in str(error) and "10.jpg" not in str(error) and "and 15 more" in str(error)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_no_damage_escapes_as_another_error(tmp_path, monkeypatch):
    """Cut anywhere or with bytes overturned, a file decodes or is a ValueError."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    rng = np.random.default_rng(0)
    refused = 0
    for ending in ("png", "jpg", "bmp", "gif", "tiff"):
        path = tmp_path / f"whole.{ending}"
        Image.fromarray(noise(24, 12)).save(path)
        whole = bytearray(path.read_bytes())
        for trial in range(60):
            hurt = whole[: rng.integers(len(whole))] if trial % 2 else bytearray(whole)
            for place in rng.integers(0, max(1, len(hurt)), 8 if trial % 2 == 0 else 0):
                hurt[place] = rng.integers(256)
            (tmp_path / "hurt").write_bytes(hurt)
            try:
                assert decode(str(tmp_path / "hurt"), HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)
            except ValueError:
                refused += 1
    assert refused > 100


def test_whatever_a_decoder_raises_names_the_file(paths, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("Failed to decode image")  # as Pillow's AVIF decoder does

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(CorruptImageError, match=r"fine0\.jpg: damaged: Failed to decode"):
        ImageBank(paths, HEIGHT, WIDTH)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(noise(64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(str(tmp_path / "bomb.png"), HEIGHT, WIDTH)


# --- unusual files --------------------------------------------------------------------------


def unusual(kind: str, folder: Path) -> str:
    path = folder / f"{kind}.{'jpg' if kind in ('cmyk', 'exif') else 'png'}"
    pixels = noise(40, 24)
    if kind == "cmyk":
        Image.fromarray(pixels).convert("CMYK").save(path)
    elif kind == "palette":
        Image.fromarray(pixels).convert("P").save(path)
    elif kind == "grey":
        Image.fromarray(pixels[:, :, 0]).save(path)
    elif kind == "grey16":
        Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(path)
    elif kind == "alpha":
        Image.fromarray(noise(40, 24, 4)).save(path)
    elif kind == "black_and_white":
        Image.fromarray(pixels[:, :, 0] > 127).save(path)
    else:  # turned by a quarter, says the camera
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize(
    "kind", ["cmyk", "palette", "grey", "grey16", "alpha", "black_and_white", "exif"]
)
def test_unusual_files_are_read_as_torchreid_reads_them(kind, tmp_path):
    path = unusual(kind, tmp_path)
    theirs = np.asarray(tvf.resize(torchreid.utils.read_image(path), [HEIGHT, WIDTH]))
    assert np.array_equal(decode(path, HEIGHT, WIDTH), theirs)


def test_a_cameras_note_to_turn_the_picture_is_not_followed(tmp_path):
    path = unusual("exif", tmp_path)
    with Image.open(path) as picture:
        stored = np.asarray(picture)
    assert np.array_equal(decode(path, 40, 24), stored)


def test_transparent_pixels_keep_their_colour(tmp_path):
    pixels = np.zeros((40, 24, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    assert (decode(str(tmp_path / "clear.png"), HEIGHT, WIDTH) == [200, 0, 0]).all()
