"""The one road to embeddings: cameras by name, one warning where none is said, clear refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from embae_plugin import FeatureExtractor, ReID
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records, embed_stored, tell_unknown
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.embae import EmbAE
from tests.crops_world import (
    HEIGHT,
    INPUT,
    WIDTH,
    picture,
    tell_apart,
    tiny_embae,
    write_checkpoint,
    write_crops,
)
from tests.methods.tiny import tiny_store
from tests.threads import one_thread

__all__ = ["one_thread"]

IMAGES = [np.asarray(picture(pid, 0, 0)) for pid in range(4)]


def reid_of(*cameras: str) -> ReID:
    return ReID(Bundle(tiny_embae(cameras=cameras), INPUT), "cpu")


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# --- no camera named ------------------------------------------------------------------------


def test_one_warning_where_a_model_knows_cameras_and_none_is_named(caplog):
    reid = reid_of("gate", "yard")
    first = reid.embed(IMAGES)
    (said,) = warnings(caplog)
    assert "adapted to the cameras gate, yard and is not told which" in said
    assert "cameras=" in said and "camera=" in said and "'unknown'" in said and "\n" not in said
    assert np.array_equal(reid.embed(IMAGES), first)
    reid.embed_tensor(IMAGES[0], tta="none")
    assert len(warnings(caplog)) == 1
    reid_of("gate").embed(IMAGES)  # another model says it, too
    assert len(warnings(caplog)) == 2
    assert np.array_equal(reid.embed(IMAGES, cameras="unknown"), first)


@pytest.mark.parametrize("cameras", ["unknown", "gate", 1, ["gate", "unknown", None, 1]])
def test_silent_where_cameras_are_named_or_said_to_be_unknown(caplog, cameras):
    reid_of("gate", "yard").embed(IMAGES, cameras=cameras)
    assert not warnings(caplog)


def test_silent_where_a_model_knows_no_cameras(caplog):
    reid_of().embed(IMAGES)
    assert not warnings(caplog)


def test_of_many_cameras_some_are_named(caplog):
    names = tuple(f"camera-{n}" for n in range(40))
    reid = reid_of(*names)
    reid.embed(IMAGES)
    (said,) = warnings(caplog)
    assert "camera-0, camera-1," in said and "…" in said and "camera-39" not in said
    with pytest.raises(ValueError) as error:
        reid.embed(IMAGES * 10, cameras=[f"x{n}" for n in range(40)])
    said = str(error.value)
    assert "'x0', 'x1', " in said and "(known: camera-0, " in said and len(said) < 400


@pytest.mark.parametrize("way", ["constructor", "call", "neither", "unknown"])
def test_the_stand_in_warns_alike(tmp_path, caplog, way):
    path = write_checkpoint(tmp_path / "a.pth", cameras=("gate", "yard"))
    camera = {"constructor": "yard", "unknown": "unknown"}.get(way)
    extractor = FeatureExtractor(model_path=path, device="cpu", verbose=False, camera=camera)
    assert not warnings(caplog)
    call = "yard" if way == "call" else None
    for given in (IMAGES, torch.zeros(2, 3, HEIGHT, WIDTH), IMAGES):
        extractor(given, camera=call)
    assert len(warnings(caplog)) == (way == "neither")


# --- refusals in one line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        ("street", r"does not know camera 'street' \(known: gate, yard\); give 'unknown' for a"),
        (["gate", "b", "a", "b"], "does not know camera 'a', 'b' "),
        (2, "does not know camera 2 "),
        ([0, 1, 2, -2], "does not know camera -2, 2 "),
        (np.zeros((4, 30, 30)), r"does not know camera array\("),
        (["gate"] * 3, "^3 cameras for 4 images$"),
        ({"gate": 1}, "cameras are a dict: give one name or number for all"),
        ({"gate"}, "cameras are a set: give one name"),
        (object(), "cameras are a object: give one name"),
    ],
    ids=[*"abcdefghi"],
)
def test_cameras_that_are_not_known_are_refused_in_a_line(cameras, said):
    with pytest.raises(ValueError, match=said) as error:
        reid_of("gate", "yard").embed(IMAGES, cameras=cameras)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_the_stand_in_refuses_an_unknown_camera_at_once(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth", cameras=("gate", "yard"))
    with pytest.raises(ValueError, match=r"^the model does not know camera 'street' \(known: gate"):
        FeatureExtractor(model_path=path, device="cpu", camera="street")
    extractor = FeatureExtractor(model_path=path, device="cpu", camera="gate")
    with pytest.raises(ValueError, match="does not know camera 'street'"):
        extractor(IMAGES, camera=["gate", "street", "gate", "gate"])
    with pytest.raises(ValueError, match="^2 cameras for 4 images$"):
        extractor(IMAGES, camera=["gate", "yard"])
    plain = write_checkpoint(tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"^camera 'gate': this model knows no cameras"):
        FeatureExtractor(model_path=plain, device="cpu", camera="gate")


# --- the stand-in's cameras -----------------------------------------------------------------


def test_the_stand_in_embeds_by_the_camera_of_the_constructor_or_of_the_call(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth", cameras=("gate", "yard"))
    reid = ReID.load(path, "cpu")
    extractor = FeatureExtractor(model_path=path, device="cpu", verbose=False, camera="yard")
    options = {"normalize": False, "tta": "none"}
    by = {name: reid.embed(IMAGES, cameras=name, **options)
          for name in ("gate", "yard", "unknown")}
    assert not np.allclose(by["gate"], by["yard"], rtol=0.1)
    same = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(extractor(IMAGES), by["yard"], **same)
    for name in by:
        np.testing.assert_allclose(extractor(IMAGES, camera=name), by[name], **same)
    each = ["gate", "yard", "unknown", "gate"]
    expected = np.stack([by[name][row] for row, name in enumerate(each)])
    np.testing.assert_allclose(extractor(IMAGES, camera=each), expected, **same)
    np.testing.assert_allclose(extractor(IMAGES[0], camera="gate"), by["gate"][:1], **same)
    pixels = torch.from_numpy(np.stack(IMAGES)).permute(0, 3, 1, 2) / 255
    tensor = (pixels - 0.5) / 0.5  # normalised already, as torchreid's class takes tensors
    np.testing.assert_allclose(extractor(tensor), by["yard"], **same)
    np.testing.assert_allclose(extractor(tensor, camera=each), expected, **same)
    np.testing.assert_allclose(extractor(tensor[1], camera="gate"), by["gate"][1:2], **same)


# --- B, G, R --------------------------------------------------------------------------------


def test_opencv_s_arrays_are_turned_round_and_nothing_else_is(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth")
    reid = ReID.load(path, "cpu")
    expected = reid.embed(IMAGES)
    turned = [np.ascontiguousarray(image[..., ::-1]) for image in IMAGES]
    assert not np.allclose(reid.embed(turned), expected, atol=1e-2)
    np.testing.assert_array_equal(reid.embed(turned, bgr=True), expected)
    np.testing.assert_array_equal(reid.embed(np.stack(turned), bgr=True), expected)
    files = [str(p) for p in write_crops(tmp_path / "crops", 1, 1)]
    pictures = [picture(0, 0, shot) for shot in range(2)]
    tensors = [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1) for p in pictures]
    for others in (files, pictures, tensors):  # a mixture, too
        mixed = reid.embed([*others, turned[0]], bgr=True)
        np.testing.assert_allclose(mixed[:2], reid.embed(others), atol=1e-6)
        np.testing.assert_allclose(mixed[2:], expected[:1], atol=1e-6)
    cv = FeatureExtractor(model_path=path, device="cpu", bgr=True)
    rgb = FeatureExtractor(model_path=path, device="cpu")
    torch.testing.assert_close(cv(turned), rgb(IMAGES))
    torch.testing.assert_close(cv(files), rgb(files))


# --- listed crops ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> ImageRecords:
    """Two crops each of the cameras yard, street and gate, numbered otherwise than in a model."""
    paths = write_crops(tmp_path_factory.mktemp("crops"), people=2, cameras=3, each=1)
    numbers = np.repeat([0, 1, 2], 2)
    names = tuple(["yard", "street", "gate"][n] for n in numbers)
    return ImageRecords(tuple(map(str, paths)), numbers, numbers * 0, None, names)


@pytest.mark.parametrize("parts", ["trunk", "heads"])
@pytest.mark.parametrize("tta", ["none", "flip", "ten_crop"])
def test_listed_crops_are_embedded_by_the_name_of_their_camera(records, parts, tta):
    model = tiny_embae()
    model.learn_cameras(parts, ["gate", "yard"])
    tell_apart(model, by=0.4)
    found = embed_records(model, tiny_store(), records, "crops", tta, normalize=False)
    for rows, camera in (([0, 1], 1), ([2, 3], -1), ([4, 5], 0)):
        plain = model.of_camera(camera)
        crops = records.rows(np.array(rows))
        expected = embed_records(plain, tiny_store(), crops, "crops", tta, normalize=False)
        torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-6)
        other = embed_records(model.of_camera((camera + 2) % 3 - 1), tiny_store(), crops, "crops",
                              tta, normalize=False)
        assert not torch.allclose(found[rows], other, rtol=1e-2)


def test_stored_features_of_a_model_without_cameras_need_no_names(records):
    model, store = tiny_embae(), tiny_store()
    features = store.features(model, records, "crops")
    expected = embed_views(model.embed_features, features, True)
    assert torch.equal(embed_stored(model, features, records), expected)


def test_cameras_that_a_model_was_not_adapted_to_are_said(caplog):
    model = tiny_embae(cameras=("gate", "yard"))
    assert tell_unknown(model, ["gate", "yard", "gate"]) == "" and not warnings(caplog)
    assert tell_unknown(tiny_embae(), ["street"]) == "" and not warnings(caplog)
    said = tell_unknown(model, ["street", "gate", "hall", "street"])
    assert warnings(caplog) == [said] and "\n" not in said
    assert "not adapted to the camera(s) hall, street, whose" in said and "knows gate, yard" in said
    many = tell_unknown(model, [f"x{n}" for n in range(10)])
    assert "x5, …" in many and "x6" not in many


# --- odd batches ----------------------------------------------------------------------------


def test_no_images_have_no_embeddings_whatever_the_network():
    model = EmbAE.of_network("torchreid:osnet_x0_25").eval()
    with pytest.raises(RuntimeError):
        model(torch.zeros(0, 3, HEIGHT, WIDTH))
    reid = ReID(Bundle(model, INPUT), "cpu")
    assert reid.embed([]).shape == (0, 512)
    empty = torch.zeros(0, 3, HEIGHT, WIDTH)
    assert reid.embed_batch(empty, None, True, "flip").shape == (0, 512)
