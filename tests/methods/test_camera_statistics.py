"""Statistics by camera: the moments by brute force, the mixing rule by hand, no label read."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from embae_plugin.data.augment import normalise
from embae_plugin.data.records import ImageRecords
from embae_plugin.methods.camera_statistics import camera_count, estimate, mix
from embae_plugin.methods.norm import ImageNormEngine
from embae_plugin.models.camera_norm import (
    CameraNorm,
    camera_layers,
    of_camera,
)
from tests.methods.tiny import (
    pick,
    same_weights,
    tiny_data,
    tiny_store,
    two_layer_model,
    write_crops,
)

PRIOR = 32


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> ImageRecords:
    """16 unlabelled crops of each of 3 cameras, person by person."""
    return write_crops(tmp_path_factory.mktemp("crops"), 8, 3, 2).unlabelled()


def layer_with(
    means: list[float], variances: list[float], common: tuple[float, float]
) -> CameraNorm:
    """A layer of one unit whose cameras have these moments, and all together the last ones."""
    layer = CameraNorm(torch.nn.BatchNorm1d(1), len(means))
    layer.running_mean[:-1, 0] = torch.tensor(means)
    layer.running_var[:-1, 0] = torch.tensor(variances)
    layer.running_mean[-1], layer.running_var[-1] = common
    return layer


# --- the mixing rule ------------------------------------------------------------------------


def test_two_cameras_are_mixed_as_worked_out_by_hand():
    # 32 images of mean 0 and variance 1, 96 of mean 4 and variance 2. Of all 128 images the mean
    # is 96/128 · 4 = 3, the variance (32 · (1 + 9) + 96 · (2 + 1)) / 128 = 4.75.
    layer = layer_with([0.0, 4.0], [1.0, 2.0], (3.0, 4.75))
    mix(layer, torch.tensor([32, 96]))
    # Camera 0 keeps 32/(32 + 32): mean 1.5, variance ½ (1 + 1.5²) + ½ (4.75 + 1.5²) = 5.125.
    # Camera 1 keeps 96/128: mean ¾ · 4 + ¼ · 3 = 3.75, and
    # ¾ (2 + 0.25²) + ¼ (4.75 + 0.75²) = 2.875.
    assert layer.running_mean.flatten().tolist() == [1.5, 3.75, 3.0]
    assert layer.running_var.flatten().tolist() == [5.125, 2.875, 4.75]


def test_a_mix_has_the_moments_of_its_images_and_of_32_of_all():
    rng = np.random.default_rng(0)
    values = [rng.normal(i, 1 + i, n) for i, n in enumerate((5, 70, 400))]
    everything = np.concatenate(values)
    common = float(everything.mean()), float(everything.var())
    layer = layer_with([v.mean() for v in values], [v.var() for v in values], common)
    counts = torch.tensor([len(v) for v in values])
    mix(layer, counts)
    for camera, own in enumerate(values):
        weights = np.concatenate([
            np.full(len(own), 1 / (len(own) + PRIOR)),
            np.full(len(everything), PRIOR / len(everything) / (len(own) + PRIOR)),
        ])
        both = np.concatenate([own, everything])
        mean = np.average(both, weights=weights)
        var = np.average((both - mean) ** 2, weights=weights)
        assert layer.running_mean[camera].item() == pytest.approx(mean, rel=1e-5)
        assert layer.running_var[camera].item() == pytest.approx(var, rel=1e-5)
    assert layer.running_mean[-1].item() == pytest.approx(everything.mean(), rel=1e-5)
    assert layer.running_var[-1].item() == pytest.approx(everything.var(), rel=1e-5)


def test_a_camera_of_fewer_than_four_images_takes_what_all_have_in_common():
    common = 3.5, 2.5
    layer = layer_with([0.0, 4.0, 50.0], [1.0, 2.0, 7.0], common)
    mix(layer, torch.tensor([3, 97, 0]))
    assert (layer.running_mean[-1].item(), layer.running_var[-1].item()) == common
    for camera in (0, 2):
        assert layer.running_mean[camera].item() == pytest.approx(common[0])
        assert layer.running_var[camera].item() == pytest.approx(common[1])
    assert layer.running_mean[1].item() != pytest.approx(common[0])


# --- f_emb ----------------------------------------------------------------------------------


def expected_of_heads(model, store, records, cameras):
    """What mix should be given, in float64: moments of each camera's hidden units."""
    h = store.features(model, records, "crops").double()
    weight, bias = model.f_emb.fc1.weight.double(), model.f_emb.fc1.bias.double()
    hidden = (h @ weight.T + bias).clamp(min=0)  # relu_bn
    layer = CameraNorm(copy.deepcopy(model.f_emb.bn).double(), cameras)
    counts = np.bincount(records.camids, minlength=cameras)
    for camera in np.flatnonzero(counts):
        own = hidden[records.camids == camera].detach().numpy().reshape(-1, hidden.shape[-1])
        layer.running_mean[camera] = torch.from_numpy(own.mean(0))
        layer.running_var[camera] = torch.from_numpy(own.var(0))
    every = hidden.detach().numpy().reshape(-1, hidden.shape[-1])
    layer.running_mean[-1] = torch.from_numpy(every.mean(0))
    layer.running_var[-1] = torch.from_numpy(every.var(0))
    mix(layer, torch.from_numpy(counts))
    return layer


def test_statistics_of_f_emb_are_the_moments_of_each_cameras_features(crops, store):
    model = two_layer_model()
    before = copy.deepcopy(model)
    estimate(model, crops, store, "heads")
    (layer,) = camera_layers(model)
    expected = expected_of_heads(before, store, crops, 3)
    torch.testing.assert_close(layer.running_mean.double(), expected.running_mean)
    torch.testing.assert_close(layer.running_var.double(), expected.running_var)
    assert not torch.allclose(layer.running_mean[0], layer.running_mean[1], rtol=1e-3)
    assert same_weights(model.trunk, before.trunk) and not model.training
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_a_camera_number_that_no_image_has_takes_the_common_statistics(crops, store, parts):
    model = two_layer_model()
    gap = replace(crops, camids=np.array([0, 3, 4])[crops.camids])
    estimate(model, gap, store, parts)
    assert model.cameras == 5
    for layer in camera_layers(model):
        for camera in (1, 2):
            torch.testing.assert_close(layer.running_mean[camera], layer.running_mean[-1])
            torch.testing.assert_close(layer.running_var[camera], layer.running_var[-1])
        assert not torch.allclose(layer.running_mean[3], layer.running_mean[-1])


# --- the trunk ------------------------------------------------------------------------------


def test_statistics_of_the_trunk_are_those_of_torchs_own_pass_in_training(crops, store):
    model = two_layer_model()
    twins = [copy.deepcopy(model.trunk).train() for _ in range(3)]
    estimate(model, crops, store, "trunk")
    (layer,) = camera_layers(model)
    expected = CameraNorm(copy.deepcopy(twins[0].net[1]), 3)
    for camera, trunk in enumerate(twins):
        norm = trunk.net[1]
        norm.momentum = 1.0  # a single batch of 16 images: its moments alone
        rows = torch.from_numpy(np.flatnonzero(crops.camids == camera))
        with torch.no_grad():
            trunk(normalise(store.images(crops, "crops").batch(rows), store.mean, store.std))
        expected.running_mean[camera] = norm.running_mean
        expected.running_var[camera] = norm.running_var
    together = copy.deepcopy(twins[0])  # one batch of all 48 images, normalised together
    with torch.no_grad():
        x = store.images(crops, "crops").batch(torch.arange(48))
        together(normalise(x, store.mean, store.std))
    expected.running_mean[-1] = together.net[1].running_mean
    expected.running_var[-1] = together.net[1].running_var
    mix(expected, torch.tensor([16, 16, 16]))
    torch.testing.assert_close(layer.running_mean, expected.running_mean)
    torch.testing.assert_close(layer.running_var, expected.running_var)
    assert layer.momentum == 0.1 and not model.training


def test_several_batches_of_a_camera_are_averaged(crops, store):
    model = two_layer_model()
    many = crops.rows(np.tile(np.arange(48), 12))  # 192 of each camera: two batches of 96
    estimate(model, many, store, "trunk")
    (layer,) = camera_layers(model)
    once = two_layer_model()
    estimate(once, crops, store, "trunk")
    # Two halves of a shuffle hold about what the whole does; the mix knows of 192 images.
    mean, other = layer.running_mean, camera_layers(once)[0].running_mean
    torch.testing.assert_close(mean[-1], other[-1], rtol=0.1, atol=0.05)
    assert (mean[0] - mean[-1]).norm() > 1.5 * (other[0] - other[-1]).norm()


def test_few_images_of_a_camera_leave_no_trace_of_the_statistics_before(crops, store):
    few = pick(crops, (crops.camids < 2) | (np.arange(48) < 11))  # 3 images of camera 2
    assert np.bincount(few.camids).tolist() == [16, 16, 3]
    models = [two_layer_model() for _ in range(2)]
    with torch.no_grad():
        models[1].trunk.net[1].running_mean.fill_(100.0)
        models[1].trunk.net[1].running_var.fill_(1000.0)
    for model in models:
        estimate(model, few, store, "trunk")
    assert same_weights(*models)
    (layer,) = camera_layers(models[0])
    torch.testing.assert_close(layer.running_mean[2], layer.running_mean[-1])


def test_where_every_camera_has_few_images_the_trunk_keeps_its_statistics(crops, store):
    model = two_layer_model()
    before = copy.deepcopy(model.trunk.net[1])
    estimate(model, crops.rows(np.arange(6)), store, "trunk")  # two images of each camera
    (layer,) = camera_layers(model)
    for row in range(4):
        torch.testing.assert_close(layer.running_mean[row], before.running_mean)
        torch.testing.assert_close(layer.running_var[row], before.running_var)


def test_normalised_cameras_look_alike(crops, store):
    """What the method is for: images of a camera lie no nearer one another than others do."""
    model = two_layer_model()
    many = crops.rows(np.tile(np.arange(48), 8))  # 128 of each, so that each keeps its own

    def shift() -> float:
        h = store.features(model, crops, "crops")[:, 0]
        means = torch.stack([h[crops.camids == camera].mean(0) for camera in range(3)])
        return float(means.var(0).sum() / h.var(0).sum())

    estimate(model, many, store, "trunk")
    with_cameras = shift()
    model.trunk = of_camera(model.trunk, -1)  # the same images' statistics, for all cameras
    assert with_cameras < 0.5 * shift()


# --- both -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_the_same_seed_gives_the_same_bits_and_labels_change_none(crops, store, parts):
    models = [two_layer_model() for _ in range(4)]
    many = crops.rows(np.tile(np.arange(48), 12))
    labelled = replace(many, pids=np.arange(len(many)))
    cases = ((many, 1), (many, 1), (labelled, 1), (many, 2))
    for number, (model, (records, seed)) in enumerate(zip(models, cases, strict=True)):
        torch.manual_seed(number)  # the global state is not drawn from
        estimate(model, records, store, parts, seed)
    assert same_weights(models[0], models[1]) and same_weights(models[0], models[2])
    assert same_weights(models[0], models[3]) == (parts == "heads")


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_an_estimate_can_be_repeated(crops, store, parts):
    model = two_layer_model()
    estimate(model, crops, store, parts)
    once = copy.deepcopy(model)
    estimate(model, crops, store, parts)
    assert same_weights(model, once)
    more = replace(crops, camids=crops.camids + 1)
    other = {"heads": "trunk", "trunk": "heads"}[parts]
    for records, wanted, message in (
        (more, parts, f"the cameras 0, 1, 2 in its {parts}, not of 0, 1, 2, 3"),
        (crops, other, f"in its {parts}, not of the same in its {other}"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate(model, records, store, wanted)
    assert same_weights(model, once)


def test_cameras_with_few_images_are_named(crops, store, caplog):
    gap = replace(crops, camids=np.array([0, 2, 5])[crops.camids])
    with caplog.at_level(logging.WARNING):
        estimate(two_layer_model(), gap, store, "heads")
    assert "fewer than 50 images: 0 (16), 2 (16), 5 (16); " in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        estimate(two_layer_model(), crops.rows(np.tile(np.arange(48), 4)), store, "heads")
    assert not caplog.text


def test_camera_numbers_must_count_from_0():
    assert camera_count(np.array([0, 7, 0])) == 8
    for camids, message in (
        ([0, -1], r"got 2 images of cameras \[-1, 0\]"),
        ([0, 4096], r"0 to 4095 at most; got 2 images of cameras \[0, 4096\]"),
        ([], r"got 0 images of cameras \(none\)"),
    ):
        with pytest.raises(ValueError, match=message):
            camera_count(np.array(camids, dtype=np.int64))
    assert camera_count(np.array([4095])) == 4096


# --- the engine -----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_the_engine_is_the_estimate_and_is_not_done_again(tmp_path_factory, tmp_path, parts):
    data, store = tiny_data(tmp_path_factory.mktemp("data")), tiny_store()
    models = [two_layer_model() for _ in range(3)]
    estimate(models[0], data.target_train, store, parts, seed=3)
    options = {"use_gpu": False, "seed": 3, "store": store}
    engine = ImageNormEngine(data, models[1], parts, **options)
    assert len(engine.run(tmp_path)) == 1
    assert same_weights(models[0], models[1])
    assert 0 <= engine.scores()["market"].rank1 <= 1
    path = tmp_path / f"norm-{parts}" / "last.pth"
    written = path.stat().st_mtime_ns
    ImageNormEngine(data, models[2], parts, **options).run(tmp_path, 1)
    assert same_weights(models[0], models[2]) and path.stat().st_mtime_ns == written
    assert models[2].spec()["camera_parts"] == parts

    bare = copy.copy(data)
    bare.target_train = None
    with pytest.raises(ValueError, match="no target images"):
        ImageNormEngine(bare, two_layer_model(), parts, **options)
    with pytest.raises(ValueError, match="parts: 'eyes' is not one of trunk, heads"):
        ImageNormEngine(data, two_layer_model(), "eyes", **options).run(tmp_path, 1)
