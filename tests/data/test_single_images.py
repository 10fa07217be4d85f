"""What is no image is refused with its number and what to do about it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin.data.image_bank import CorruptImageError
from embae_plugin.data.single_images import as_items, decoded, tensor_batch
from embae_plugin.models.input_spec import InputSpec

SPEC = InputSpec(8, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GOOD = np.random.default_rng(0).integers(0, 255, (8, 4, 3), dtype=np.uint8)
RGBA = np.dstack([GOOD, GOOD[..., 0]])


def refused(images, first: int = 0, said: str | None = None) -> str:
    with pytest.raises(ValueError, match=said) as error:
        decoded(as_items(images), SPEC, first=first)
    assert "\n" not in str(error.value)
    return str(error.value)


def remedy(image: np.ndarray, message: str) -> np.ndarray:
    """What a message advises, done to the image that it refused."""
    if "np.repeat(" in message:
        expression = re.search(r"np\.repeat\(.*\)", message)[0]
    elif "image[..." in message:
        expression = re.search(r"image\[.*\]", message)[0]
    else:
        assert "multiply values in [0, 1] by 255 and use .astype('uint8')" in message
        expression = "(image * 255).round().astype('uint8')"
    return eval(expression, {"np": np, "image": image})


GREY = GOOD[..., 0]
WRONG = {
    "grey": (GREY, np.repeat(GREY[..., None], 3, 2)),
    "grey with a channel": (GREY[..., None], np.repeat(GREY[..., None], 3, 2)),
    "R, G, B and transparency": (RGBA, GOOD),
    "floats": (GOOD / 255, GOOD),
    "half floats": ((GOOD / 255).astype(np.float16), GOOD),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_remedy_is_named_and_works(kind):
    image, meant = WRONG[kind]
    said = refused([GOOD, GOOD, image, GOOD])
    assert said.startswith("image 2 (counted from 0): an array of ")
    assert f"{image.dtype} {image.shape}: an image is uint8 (H, W, 3), R, G, B; " in said
    again = remedy(image, said)
    np.testing.assert_allclose(decoded([again], SPEC)[0].astype(int), meant, atol=1)
    assert refused([image]).startswith("image 0 ")
    assert refused(image) == refused([image])  # alone, not in a list


@pytest.mark.parametrize(("image", "said"), [
    (GOOD[:0], r"\(0, 4, 3\).*; this one holds nothing, as of a box outside the frame$"),
    (GOOD[:, :0], r"\(8, 0, 3\).*; this one holds nothing, as of a box outside the frame$"),
    (GREY[:0], r"\(0, 4\).*; this one holds nothing, as of a box outside the frame$"),
    (Image.new("RGB", (0, 5)), "an image of 0 x 5 pixels holds nothing$"),
    (GOOD.astype(np.int64), r"an array of int64 \(8, 4, 3\): an image is uint8 \(H, W, 3\)"),
    (GOOD > 9, r"an array of bool \(8, 4, 3\): an image is uint8"),
    (GOOD.transpose(2, 0, 1), r"an array of uint8 \(3, 8, 4\): an image is uint8 \(H, W, 3\)"),
    (None, r"a NoneType is no image: give file names, PIL images, numpy arrays \(H, W, 3\)"),
    (torch.zeros(3, 0, 4), r"a tensor of shape \(3, 0, 4\): an image is \(3, H, W\)$"),
    (torch.full((3, 8, 4), 7.0), r"a float tensor with values from 7 to 7: images are in \[0, 1\]"),
    (torch.zeros(3, 8, 4, dtype=torch.int32), "a tensor of torch.int32: an image is uint8"),
], ids=[*"abcdefghijk"])
def test_which_one_is_said_however_many_went_before(image, said):
    """``first`` is what a caller adds that hands over batch by batch."""
    assert refused([GOOD, image, GOOD], 64, said).startswith("image 65 (counted from 0): ")


@pytest.mark.parametrize("shape", [(5, 8, 4, 1), (5, 8, 4, 4)])
def test_a_stack_of_them_is_refused_at_its_first(shape):
    assert refused(np.zeros(shape, np.uint8)).startswith("image 0 (counted from 0): ")


BAD_TENSORS = [
    (torch.zeros(1, 8, 4), r"shape \(1, 8, 4\)"),
    (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
    (torch.zeros(3, 8, 4, dtype=torch.int64), "torch.int64"),
    (torch.full((3, 8, 4), -2.0), "values from -2 to -2"),
    (torch.full((3, 8, 4), float("nan")), "values from nan to nan"),
    (torch.zeros(3, 8, 4).to_sparse(), "sparse"),
]


@pytest.mark.parametrize(("image", "said"), BAD_TENSORS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("others", [(8, 4), (6, 5)])
def test_tensors_say_which_one_too(image, said, others):
    good = torch.rand(3, *others)
    with pytest.raises(ValueError, match=said) as error:
        tensor_batch([good, good, image, good], SPEC, first=10)
    assert str(error.value).startswith("image 12 (counted from 0): a ")


def test_files_are_named_by_their_paths(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    with pytest.raises(CorruptImageError) as error:
        decoded([GOOD, str(tmp_path / "bad.jpg"), tmp_path / "gone.jpg"], SPEC)
    assert [path for path, _ in error.value.failures] == [
        str(tmp_path / "bad.jpg"), str(tmp_path / "gone.jpg")
    ]


def test_only_arrays_are_turned_round():
    tensor = torch.from_numpy(GOOD.copy()).permute(2, 0, 1)
    out = decoded([GOOD, Image.fromarray(GOOD), tensor, tensor / 255], SPEC, bgr=True)
    np.testing.assert_array_equal(out[0], GOOD[..., ::-1])
    for other in out[1:]:
        np.testing.assert_array_equal(other, GOOD)
