"""Odd images, cameras, devices and sizes for the classes that programs call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from embae_plugin import FeatureExtractor, ReID
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.door import open_model
from tests.crops_world import HEIGHT, WIDTH, write_checkpoint

PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("m") / "adapted.pth", cameras=("a", "b"))


@pytest.fixture(scope="module")
def reid(checkpoint):
    return ReID.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def extractor(checkpoint):
    return FeatureExtractor(model_path=checkpoint, device="cpu", verbose=False)


NO_IMAGES = {
    "none": None, "number": 1.5, "list of none": [None], "nested": [[PIXELS]], "bytes": b"abc",
    "missing": "nowhere.jpg", "no name": "", "nul": "a\0b", "folder": ".", "path in list": [""],
    "row": PIXELS[0], "five axes": PIXELS[None, None], "floats": PIXELS / 255.0,
    "bool": PIXELS > 9, "four channels": np.zeros((4, 4, 4), np.uint8), "text": np.array([["a"]]),
    "channels first": np.zeros((3, 32, 16), np.uint8), "no rows": PIXELS[:0],
    "no pixels": Image.new("RGB", (0, 5)), "nan": TENSOR * float("nan"), "infinite": TENSOR / 0,
    "negative": -TENSOR, "long": TENSOR.long(), "complex": TENSOR.to(torch.complex64),
    "eight bits": TENSOR.to(torch.float8_e4m3fn), "sparse": TENSOR.to_sparse(),
    "meta": TENSOR.to("meta"), "one channel": TENSOR[:1], "plane": TENSOR[0],
    "no rows of a tensor": TENSOR[:, :0], "batch in list": [TENSOR[None]],
    "one bad of two": [TENSOR, TENSOR[0]], "bad beside an array": [PIXELS, TENSOR * 2],
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused(reid, name):
    with pytest.raises(ValueError) as error:
        reid.embed(NO_IMAGES[name])
    assert str(error.value)


@pytest.mark.parametrize("none", [[], (), PIXELS[:0][None][:0], torch.zeros(0, 3, 8, 8)])
def test_no_images_have_no_embeddings(reid, extractor, none):
    assert reid.embed(none, cameras=[]).shape == (0, 8) == tuple(extractor(none).shape)


@few
@given(arrays.arrays(
    st.sampled_from([np.uint8, np.int8, np.int64, np.float32, np.bool_]),
    st.lists(st.integers(0, 5), max_size=5).map(tuple), fill=st.nothing(),
    elements={"min_value": 0, "max_value": 1},
))
def test_arrays_of_any_shape_and_type(reid, array):
    image = array.ndim in (3, 4) and array.shape[-1] == 3 and array.dtype == np.uint8
    if (image and array.size) or (array.ndim == 4 and not len(array)):
        z = reid.embed(array)
        assert z.shape == (1 if array.ndim == 3 else len(array), 8) and np.isfinite(z).all()
    else:
        with pytest.raises(ValueError):
            reid.embed(array)


@pytest.mark.parametrize("same", [PIXELS.astype(">u1"), PIXELS[::-1][::-1], TENSOR.double(),
                                  TENSOR.clone().requires_grad_(),
                                  Image.fromarray(PIXELS)])
def test_the_same_image_in_another_form(reid, same):
    np.testing.assert_allclose(reid.embed(same), reid.embed(PIXELS), atol=2e-6)


UNKNOWN = [2, -2, 0.5, float("nan"), "z", "", 2**70, object(), {"a": 0, "b": 1}, {0, 1}, b"a",
           [0], [0, 1, 0], [0.7, 1], [float("nan"), 0], [[0], [1]], [b"a", "b"], [object(), 0],
           np.array([[0], [1]]), torch.tensor([0.5, 1]), np.float32(0.5)]


@pytest.mark.parametrize("cameras", UNKNOWN, ids=lambda value: type(value).__name__)
def test_cameras_that_the_model_does_not_know(reid, cameras):
    with pytest.raises(ValueError, match="camera"):
        reid.camera_numbers(cameras, 2)


@pytest.mark.parametrize(("cameras", "numbers"), [
    (1, [1, 1]), ("b", [1, 1]), (np.int8(1), [1, 1]), (torch.tensor(1), [1, 1]), (-1, [-1, -1]),
    (["b", None], [1, -1]), ([1.0, 0], [1, 0]), (torch.tensor([1, 0]), [1, 0]), (range(2), [0, 1]),
    ("unknown", [-1, -1]), (["a", "unknown"], [0, -1]), (np.array(["b", "a"]), [1, 0]),
    (np.array(["b", None], dtype=object), [1, -1]), ((c for c in "ba"), [1, 0]),
], ids=lambda value: type(value).__name__)
def test_cameras_in_all_forms(reid, cameras, numbers):
    assert reid.camera_numbers(cameras, 2).tolist() == numbers


def test_a_model_without_cameras_takes_none_by_name(reid, checkpoint):
    bundle = open_model(checkpoint)
    plain = ReID(Bundle(bundle.model.of_camera(0), bundle.input), "cpu")
    z = plain.embed([PIXELS, PIXELS[::-1]])
    for cameras in (None, "unknown", -1, [None, "unknown"], ["unknown", -1]):
        assert np.array_equal(plain.embed([PIXELS, PIXELS[::-1]], cameras=cameras), z)
    for cameras in ("a", 0, ["a", "b"], [None, 1]):
        with pytest.raises(ValueError, match=r"model knows no cameras, .*leave the camera out"):
            plain.embed([PIXELS, PIXELS[::-1]], cameras=cameras)


@pytest.mark.parametrize("size", [-1, 1.5, "a", None, float("nan")])
def test_batch_sizes_that_are_none(reid, size):
    with pytest.raises(ValueError, match="batch_size"):
        reid.embed([PIXELS, PIXELS], batch_size=size)


@pytest.mark.parametrize("size", [1, 2, 10**12, np.int64(3)])
def test_batch_sizes_change_nothing(reid, size):
    images = [PIXELS, PIXELS[::-1], PIXELS[:, ::-1]]
    np.testing.assert_allclose(reid.embed(images, batch_size=size), reid.embed(images), atol=2e-6)


@pytest.mark.parametrize("device", ["x", "", None, -1, float("nan"), "meta", "cpu:"])
def test_devices_that_are_none(checkpoint, device):
    with pytest.raises(ValueError, match="device"):
        ReID.load(checkpoint, device)


@pytest.mark.parametrize("size", [(-1, 0), (0, -1), (10**9, 10**9), ("a", 3), (1.5, 2), (2**70, 1)])
def test_sizes_that_are_none(checkpoint, size):
    with pytest.raises(ValueError, match="input"):
        ReID.load(checkpoint, "cpu", *size)


# --- the stand-in for torchreid's class -------------------------------------------------------


@pytest.mark.parametrize("name", ["long", "complex", "eight bits", "sparse", "meta", "one channel",
                                  "plane", "no rows of a tensor", "none", "row",
                                  "floats"])
def test_the_extractor_refuses_what_is_no_image(extractor, name):
    with pytest.raises(ValueError):
        extractor(NO_IMAGES[name])


def test_the_extractor_takes_half_precision_and_refuses_raw_bytes(extractor):
    np.testing.assert_allclose(extractor(TENSOR.half()), extractor(TENSOR.half().float()))
    with pytest.raises(ValueError, match="normalised already"):
        extractor((TENSOR * 255).byte())


@pytest.mark.parametrize("change", [
    {"image_size": (1, 2, 3)}, {"image_size": (1,)}, {"image_size": 1.5}, {"image_size": "ab"},
    {"image_size": -1}, {"pixel_mean": [0]}, {"pixel_mean": []}, {"pixel_mean": 3},
    {"pixel_mean": "abc"}, {"pixel_std": [0, 0, 0]}, {"pixel_std": [float("nan")] * 3},
    {"model_path": ""}, {"model_path": "nowhere"}, {"device": "x"},
    {"model_name": "nonsense", "model_path": ""},
], ids=str)
def test_extractors_that_cannot_be(checkpoint, change):
    with pytest.raises((ValueError, OSError)):
        FeatureExtractor(**{"model_path": checkpoint, "device": "cpu", **change})


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple, list])
def test_means_of_any_kind(checkpoint, kind):
    own = FeatureExtractor(model_path=checkpoint, device="cpu", pixel_mean=kind([0.0, 0.1, 0.2]))
    assert own.reid.input.norm_mean == pytest.approx((0.0, 0.1, 0.2))
