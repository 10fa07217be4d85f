"""A crop without its camera's name is taken for that of the camera it looks like."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.embedder import embed_records
from embae_plugin.methods.camera_statistics import estimate
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.camera_guess import MARKS, CameraGuess
from embae_plugin.models.door import open_model
from embae_plugin.models.embae import EmbAE
from embae_plugin.reid import ReID
from tests.methods.tiny import same_weights, tiny_model, tiny_store, write_crops


def looks(
    cameras: int, each: int, seed: int, cast: float = 0.15
) -> tuple[torch.Tensor, np.ndarray]:
    """Noise images whose colours lean another way on each camera."""
    draw = torch.Generator().manual_seed(seed)
    camids = np.repeat(np.arange(cameras), each)
    lean = torch.randn(cameras, 3, generator=torch.Generator().manual_seed(9)) * cast
    images = 0.5 + 0.1 * torch.randn(len(camids), 3, 64, 32, generator=draw)
    return images + lean[camids][:, :, None, None], camids


@pytest.mark.parametrize("cameras", [2, 5])
def test_it_tells_cameras_of_other_images_apart(cameras):
    guess = CameraGuess(cameras)
    images, camids = looks(cameras, 30, seed=0)
    assert guess.marks(images).shape == (30 * cameras, MARKS)
    assert (guess(images) == -1).all(), "before anything was learned"
    guess.learn(guess.marks(images).numpy(), camids)
    others, right = looks(cameras, 20, seed=1)
    assert (guess(others).numpy() == right).mean() > 0.9


def test_cameras_without_images_are_never_guessed_and_one_camera_always_is():
    guess = CameraGuess(4)
    images, camids = looks(2, 20, seed=0)
    guess.learn(guess.marks(images).numpy(), 1 + 2 * camids)  # cameras 1 and 3
    assert set(guess(looks(2, 20, seed=2)[0]).tolist()) == {1, 3}
    guess.learn(guess.marks(images).numpy(), np.full(len(camids), 2))
    assert (guess(images) == 2).all()


def test_it_does_not_depend_on_how_images_are_normalised():
    plain, other = CameraGuess(2), CameraGuess(2)
    other.norm_mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
    other.norm_std.copy_(torch.tensor([0.2, 0.25, 0.3]))
    images, _ = looks(2, 3, seed=0)
    shown = (images - other.norm_mean[:, None, None]) / other.norm_std[:, None, None]
    torch.testing.assert_close(plain.marks(images), other.marks(shown), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model with statistics of three cameras, and crops of these."""
    folder = tmp_path_factory.mktemp("guess")
    target = write_crops(folder / "t", 7, 3, 4).unlabelled()
    store, model = tiny_store(), tiny_model()
    estimate(model, target, store, "trunk")
    return model.eval(), target, store


def test_unnamed_crops_are_embedded_by_the_camera_that_is_guessed(world):
    model, crops, store = world
    named = embed_records(model, store, crops, "named")
    guessed = embed_records(model, store, crops.unnamed(), "unnamed")
    images = store.images(crops, "x")
    reid = ReID(Bundle(model, store.input_spec()), "cpu")
    pixels = images.batch(torch.arange(len(crops))).numpy()
    np.testing.assert_allclose(reid.embed(pixels), guessed.numpy(), atol=1e-4)
    np.testing.assert_allclose(reid.embed(pixels, cameras="unknown"), guessed.numpy(), atol=1e-4)
    common = copy.deepcopy(model)
    common.guess = None
    plain = embed_records(common, store, crops.unnamed(), "common")
    assert (guessed - named).norm(dim=1).mean() < 0.7 * (plain - named).norm(dim=1).mean()
    right = (guessed - named).norm(dim=1) < 1e-5  # embedded by their own camera's statistics
    assert right.float().mean() > 0.8


def test_a_batch_may_name_some_cameras_and_not_others(world):
    model, crops, store = world
    images = store.images(crops, "x").batch(torch.arange(6)).permute(0, 3, 1, 2) / 255 * 2 - 1
    guessed = model.guess(images)
    mixed = torch.tensor([0, -1, 2, -1, 1, 9])
    found = model.cameras_of(images, mixed)
    assert found.tolist() == [0, guessed[1], 2, guessed[3], 1, guessed[5]]
    assert model.cameras_of(images, None).tolist() == guessed.tolist()


def test_a_checkpoint_keeps_it_and_an_older_one_has_none(world, tmp_path):
    model, _, store = world
    save_bundle(tmp_path / "m.pth", Bundle(model, store.input_spec()))
    again = open_model(tmp_path / "m.pth").model
    assert again.guess is not None and same_weights(model, again)
    spec = {key: value for key, value in model.spec().items() if key != "camera_guess"}
    older = EmbAE.from_spec(spec)
    assert older.guess is None and older.cameras == 3
    assert model.of_camera(-1).guess is None


def test_features_of_unnamed_crops_are_found_again(world, tmp_path):
    model, crops, _ = world
    half = (0.5, 0.5, 0.5)
    for _ in range(2):
        store = FeatureStore(32, 16, half, half, "cpu", cache_dir=tmp_path)
        store.features(model, crops.unnamed(), "unnamed")
    assert len(list(tmp_path.glob("features-*.npy"))) == 1
