"""Cached features are the trunk's own, and nothing is computed twice."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tvf

from embae_plugin.data import feature_bank, image_bank
from embae_plugin.data.feature_bank import (
    FeatureStore,
    extract_features,
    flip_views,
    ten_crop_size,
    ten_crop_views,
)
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.data.records import ImageRecords
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import build_trunk
from tests.crops_world import tell_apart
from tests.methods.tiny import HEIGHT, WIDTH, tiny_store, two_layer_trunk, write_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> ImageRecords:
    return write_crops(tmp_path_factory.mktemp("crops"), people=3, cameras=2, each=1)


@pytest.fixture(scope="module")
def trunk():
    """A real trunk whose batch norms have seen something, so that folding them matters."""
    trunk = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0))
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return trunk


def by_hand(trunk, pictures: list[Image.Image]) -> torch.Tensor:
    """The plain trunk in eval mode, on torchvision's tensors."""
    batch = torch.stack([tvf.normalize(tvf.to_tensor(picture), MEAN, STD) for picture in pictures])
    with torch.no_grad():
        return copy.deepcopy(trunk).eval()(batch)


def opened(records: ImageRecords, size: tuple[int, int]) -> list[Image.Image]:
    pictures = [Image.open(path).convert("RGB") for path in records.paths]
    return [tvf.resize(picture, list(size)) for picture in pictures]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


def key(store: FeatureStore, *arguments: object) -> str:
    """What names the features in memory and in the cache folder."""
    found = store.features(*arguments)
    return next(name for name, kept in store._features.items() if kept is found)


# --- the numbers ----------------------------------------------------------------------------


def test_features_of_the_image_and_its_mirror_are_the_trunks(records, trunk):
    bank = ImageBank(records.paths, HEIGHT, WIDTH)
    training = trunk.training
    got = extract_features(trunk, bank, flip_views(), (HEIGHT, WIDTH), MEAN, STD)
    pictures = opened(records, (HEIGHT, WIDTH))
    assert got.shape == (6, 2, trunk.feature_dim) and got.dtype == torch.float32
    assert close(got[:, 0], by_hand(trunk, pictures))
    assert close(got[:, 1], by_hand(trunk, [tvf.hflip(picture) for picture in pictures]))
    assert not close(got[:, 0], got[:, 1])
    assert trunk.training is training  # the trunk itself is left as it was


def test_ten_crops_are_those_cut_by_hand(records, trunk):
    size = ten_crop_size(HEIGHT, WIDTH)
    assert size == (36, 18)
    bank = ImageBank(records.paths, *size)
    views = ten_crop_views(HEIGHT, WIDTH)
    got = extract_features(trunk, bank, views, (HEIGHT, WIDTH), MEAN, STD)
    assert got.shape == (6, 10, trunk.feature_dim)
    large = opened(records, size)
    corners = [(0, 0), (0, 2), (4, 0), (4, 2), (2, 1)]  # top, left; the last is the centre
    for number, (top, left) in enumerate(corners):
        cut = [picture.crop((left, top, left + WIDTH, top + HEIGHT)) for picture in large]
        assert close(got[:, 2 * number], by_hand(trunk, cut))
        assert close(got[:, 2 * number + 1], by_hand(trunk, [tvf.hflip(c) for c in cut]))


def test_ten_crops_are_torchvisions_five_and_their_mirrors(records):
    picture = opened(records, ten_crop_size(HEIGHT, WIDTH))[0]
    theirs = {np.asarray(crop).tobytes() for crop in tvf.five_crop(picture, [HEIGHT, WIDTH])}
    pixels = np.asarray(picture)
    ours = {
        pixels[v.top : v.top + HEIGHT, v.left : v.left + WIDTH].tobytes()
        for v in ten_crop_views(HEIGHT, WIDTH)
        if not v.mirrored
    }
    assert ours == theirs and len(ours) == 5
    assert [view.mirrored for view in ten_crop_views(HEIGHT, WIDTH)] == [False, True] * 5


def test_the_papers_input_is_enlarged_by_an_eighth():
    assert ten_crop_size(256, 128) == (288, 144)


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flip", 2), ("ten_crop", 10)])
def test_a_store_makes_as_many_views_as_asked_for(records, tta, views):
    features = tiny_store().features(two_layer_trunk(), records, "crops", tta)
    assert features.shape == (6, views, 12)


def test_one_image_is_enough(records):
    one = ImageRecords(records.paths[:1], records.camids[:1], records.dsetids[:1])
    assert tiny_store().features(two_layer_trunk(), one, "one").shape == (1, 2, 12)


def test_no_image_at_all_is_told():
    none = ImageRecords((), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match="gallery: there are no images"):
        tiny_store().features(two_layer_trunk(), none, "gallery")


def test_features_can_be_trained_on(records, tmp_path):
    for store in (tiny_store(), tiny_store(tmp_path), tiny_store(tmp_path)):  # made, saved, read
        features = store.features(two_layer_trunk(), records, "crops")
        assert not features.is_inference()
        layer = torch.nn.Linear(12, 3)
        layer(features.flatten(0, 1)).square().mean().backward()
        assert layer.weight.grad.abs().sum() > 0


# --- cameras --------------------------------------------------------------------------------


def camera_model(names: tuple[str, ...]) -> EmbAE:
    model = EmbAE.of_trunk(build_trunk("mobilenetv1_x0_25", "", torch.Generator().manual_seed(0)))
    model.learn_cameras("trunk", names)
    tell_apart(model)
    return model.eval()


def named(records: ImageRecords, names: dict[int, str]) -> ImageRecords:
    """Records whose camera numbers go by these names."""
    return replace(records, cameras=tuple(names[n] for n in records.camids.tolist()))


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_each_crop_takes_its_camera_s_statistics_by_name(records, tta):
    """The model's number of a camera is another than the records', which have one it lacks."""
    model, crops = camera_model(("yard", "gate")), named(records, {0: "gate", 1: "street"})
    store = FeatureStore(HEIGHT, WIDTH, MEAN, STD)
    got = store.features(model, crops, "crops", tta)
    pictures = opened(records, (HEIGHT, WIDTH))
    for row, name in enumerate(crops.camera_names()):
        plain = model.of_camera({"gate": 1, "street": -1}[name]).trunk
        views = [pictures[row], tvf.hflip(pictures[row])][: 1 if tta == "none" else 2]
        for view, picture in enumerate(views):
            assert close(got[row, view], by_hand(plain, [picture])[0])
            other = model.of_camera(0).trunk
            assert not close(got[row, view], by_hand(other, [picture])[0])


def test_cameras_and_their_names_change_the_key_of_a_model_that_knows_them(records, tmp_path):
    model, store = camera_model(("0", "1")), tiny_store(tmp_path)
    made = store.features(model, records, "crops")
    swapped = store.features(model, named(records, {0: "1", 1: "0"}), "crops")
    unseen = store.features(model, named(records, {0: "x", 1: "y"}), "crops")
    assert len(store._features) == 3 and unseen is not made
    assert not close(made, swapped)
    same = store.features(model, named(records, {0: "0", 1: "1"}), "crops")
    assert same is made
    again = tiny_store(tmp_path).features(model, records, "crops")  # from the folder
    assert torch.equal(again, made) and len(list(tmp_path.iterdir())) == 3
    plain = EmbAE.of_trunk(two_layer_trunk())
    keys = {key(store, plain, one, "crops")
            for one in (records, named(records, {0: "x", 1: "y"}))}  # fmt: skip
    assert len(keys) == 1


def test_a_trunk_that_knows_cameras_needs_the_model_that_knows_their_names(records):
    with pytest.raises(ValueError, match="needs its model, which knows the names"):
        tiny_store().features(camera_model(("a",)).trunk, records, "crops")


def test_a_model_without_cameras_and_its_trunk_have_the_same_features(records):
    model, store = EmbAE.of_trunk(two_layer_trunk()), tiny_store()
    assert store.features(model, records, "crops") is store.features(model.trunk, records, "crops")


# --- nothing twice --------------------------------------------------------------------------


def forbid(monkeypatch, *names: tuple[object, str]) -> None:
    for owner, name in names:

        def refuse(*_: object, name: str = name, **__: object) -> None:
            raise AssertionError(f"{name} was called")

        monkeypatch.setattr(owner, name, refuse)


EXTRACT, DECODE = (feature_bank, "extract_features"), (image_bank, "decode")


def test_a_store_computes_once(records, monkeypatch):
    store, trunk = tiny_store(), two_layer_trunk()
    first = store.features(trunk, records, "crops")
    forbid(monkeypatch, EXTRACT, DECODE)
    assert store.features(trunk, records, "crops") is first
    store.release_images()
    assert store.features(trunk, records, "crops") is first


def test_features_in_memory_are_bounded_and_the_last_asked_for_stay(records, monkeypatch):
    half = (0.5, 0.5, 0.5)
    trunk, kinds = two_layer_trunk(), ("none", "flip", "ten_crop")
    sizes = {k: tiny_store().features(trunk, records, "crops", k).nbytes for k in kinds}
    most = sizes["none"] + sizes["flip"]
    store = FeatureStore(HEIGHT, WIDTH, half, half, most_bytes=most)
    first = store.features(trunk, records, "crops", "none")
    store.features(trunk, records, "crops", "flip")
    assert store.features(trunk, records, "crops", "none") is first  # and now asked for last
    once = store.features(trunk, records, "crops", "ten_crop")  # too large for any to stay beside
    assert list(store._features.values()) == [once]
    assert torch.equal(store.features(trunk, records, "crops", "none"), first)
    store.features(trunk, records, "crops", "flip")
    assert sum(kept.nbytes for kept in store._features.values()) == most


def test_a_second_run_neither_computes_nor_decodes(records, tmp_path, monkeypatch):
    trunk = two_layer_trunk()
    first = tiny_store(tmp_path).features(trunk, records, "crops")
    forbid(monkeypatch, EXTRACT, DECODE)
    second = tiny_store(tmp_path).features(trunk, records, "crops")
    assert torch.equal(first, second)
    with pytest.raises(AssertionError, match="was called"):  # the patches do bite
        tiny_store().features(trunk, records, "crops")


@pytest.mark.parametrize("again", [False, True])
def test_what_finds_no_room_in_memory_stays_in_files(records, tmp_path, again):
    half = (0.5, 0.5, 0.5)
    made = FeatureStore(HEIGHT, WIDTH, half, half)
    for _ in range(1 + again):
        store = FeatureStore(HEIGHT, WIDTH, half, half, cache_dir=tmp_path, memory_share=1e-12)
        found = store.features(two_layer_trunk(), records, "crops")
    assert again or store.images(records, "crops").place == "file"
    maps = Path("/proc/self/maps")
    assert not maps.exists() or f"{tmp_path}/features-" in maps.read_text()
    assert torch.equal(found, made.features(two_layer_trunk(), records, "crops"))


def test_images_are_decoded_once_for_stage_1_and_for_features(records, monkeypatch):
    store = tiny_store()
    bank = store.images(records, "crops")
    forbid(monkeypatch, DECODE)
    store.features(two_layer_trunk(), records, "crops")
    assert store.images(records, "crops") is bank


def test_what_would_change_the_numbers_changes_the_key(records, tmp_path):
    trunk = two_layer_trunk()
    keys = [key(tiny_store(), trunk, records, "crops"),
            key(tiny_store(), trunk, records, "crops", "none"),
            key(tiny_store(), trunk, records, "crops", "ten_crop"),
            key(FeatureStore(HEIGHT, WIDTH, MEAN, STD), trunk, records, "crops"),
            key(FeatureStore(HEIGHT + 8, WIDTH, (0.5,) * 3, (0.5,) * 3), trunk, records,
                "crops")]
    other_order = ImageRecords(records.paths[::-1], records.camids, records.dsetids)
    keys.append(key(tiny_store(), trunk, other_order, "crops"))
    with torch.no_grad():
        trunk.net[0].weight[0, 0, 0, 0] += 1e-3
    keys.append(key(tiny_store(), trunk, records, "crops"))
    assert len(set(keys)) == len(keys)


def test_identities_and_cameras_do_not_change_the_key(records):
    trunk = two_layer_trunk()
    own = key(tiny_store(), trunk, records, "crops")
    other = ImageRecords(records.paths, records.camids * 0, records.dsetids + 1)
    assert key(tiny_store(), trunk, other, "crops") == own


def test_a_trunk_that_is_still_learning_leaves_nothing_behind(records, tmp_path):
    store, trunk = tiny_store(tmp_path), two_layer_trunk()
    kept = store.features(trunk, records, "crops")
    files = list(tmp_path.iterdir())
    with torch.no_grad():
        trunk.net[0].weight.mul_(2)
    once = store.features(trunk, records, "crops", keep=False)
    assert not torch.equal(once, kept) and list(tmp_path.iterdir()) == files


# --- the cache folder -----------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no array")


def other_shape(path: Path) -> None:
    np.save(path, np.zeros((2, 2, 12), dtype=np.float32))


def other_type(path: Path) -> None:
    np.save(path, np.zeros((6, 2, 12), dtype=np.int64))


def objects(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def archive(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + b"\x00" * 80)


@pytest.mark.parametrize("damage", [cut, empty, text, other_shape, other_type, objects, archive])
def test_a_damaged_file_is_made_again_with_a_warning(records, tmp_path, caplog, damage):
    trunk = two_layer_trunk()
    whole = tiny_store(tmp_path).features(trunk, records, "crops")
    (path,) = tmp_path.iterdir()
    damage(path)
    again = tiny_store(tmp_path).features(trunk, records, "crops")
    assert torch.equal(whole, again)
    assert f"{path} is damaged" in caplog.text and "computing the features again" in caplog.text
    assert np.array_equal(np.load(path), whole.numpy())  # and mended


def test_a_cache_folder_that_is_not_there_is_made(records, tmp_path):
    folder = tmp_path / "deep" / "down"
    tiny_store(folder).features(two_layer_trunk(), records, "crops")
    assert len(list(folder.glob("features-*.npy"))) == 1


def test_decoded_images_are_kept_where_asked(records, tmp_path, monkeypatch):
    half = (0.5, 0.5, 0.5)
    first = FeatureStore(HEIGHT, WIDTH, half, half, image_cache_dir=tmp_path)
    made = first.features(two_layer_trunk(), records, "crops")
    assert len(list(tmp_path.glob("images-*.bin"))) == 1
    forbid(monkeypatch, DECODE)
    second = FeatureStore(HEIGHT, WIDTH, half, half, image_cache_dir=tmp_path)
    assert torch.equal(second.features(two_layer_trunk(), records, "crops"), made)
