"""``ReID.embed`` takes images of any kind and gives what the evaluation gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from embae_plugin import FeatureExtractor, ReID
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.image_bank import CorruptImageError
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.door import open_model
from embae_plugin.models.input_spec import InputSpec
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

CAMERAS = ("gate",) * 3 + ("street",) * 2 + ("yard",) * 3  # of the 8 crops; one is not known


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("reid")
    paths = write_crops(root / "crops", people=2)
    write_checkpoint(root / "adapted.pth", cameras=("gate", "yard"))
    return ReID.load(root, device="cpu"), [str(path) for path in paths], root


@pytest.mark.parametrize("tta", ["none", "flip"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_same_as_in_the_evaluation(world, tta, normalize):
    reid, paths, _ = world
    numbers = np.array([5] * 3 + [0] * 2 + [1] * 3)  # in the data set; the model has its own
    records = ImageRecords(tuple(paths), numbers, numbers * 0, None, CAMERAS)
    expected = embed_records(reid.model, tiny_store(), records, "t", tta, normalize)
    cameras = ["unknown" if name == "street" else name for name in CAMERAS]
    got = reid.embed(paths, cameras=cameras, tta=tta, normalize=normalize, batch_size=3)
    assert got.dtype == np.float32 and got.shape == (8, 8)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=1e-4)
    assert not np.allclose(got[0], got[-1], atol=1e-2)


def test_every_kind_of_image(world):
    reid, paths, _ = world
    expected = reid.embed(paths)
    images = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(image) for image in images]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for many in (
        images, arrays, np.stack(arrays), tensors, torch.stack(tensors),
        torch.stack(tensors).float() / 255, [tensor / 255 for tensor in tensors],
        [paths[0], images[1], arrays[2], tensors[3], tensors[4] / 255, *paths[5:]],
        (path for path in paths),
    ):
        np.testing.assert_allclose(reid.embed(many), expected, atol=1e-5)
    for one in (paths[0], images[0], arrays[0], tensors[0], tensors[0] / 255):
        np.testing.assert_allclose(reid.embed(one), expected[:1], atol=1e-5)
    assert reid.embed([]).shape == (0, 8)
    assert isinstance(reid.embed_tensor(paths), torch.Tensor)


def test_sizes_are_brought_to_the_input(world):
    reid, _, _ = world
    large = picture(1, 0, 0, (48, 80))
    tensor = torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)
    by_pillow = reid.embed([large, picture(1, 0, 0, (2, 2))])
    assert by_pillow.shape == (2, 8)
    np.testing.assert_allclose(reid.embed(tensor), by_pillow[:1], atol=0.01)  # less rounding
    assert reid.embed([tensor, tensor[:, :40]]).shape == (2, 8)
    grey = large.convert("L")
    np.testing.assert_allclose(reid.embed(grey), reid.embed(grey.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 1), np.uint8), r"uint8 \(4, 4, 1\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\).*np\.repeat"),
        (torch.zeros(1, 4, 4), r"shape \(1, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64"),
        (torch.full((3, 4, 4), 200.0), r"from 200 to 200: images are in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), "from nan to nan"),
        ([object()], "object is no image"),
    ],
)
def test_what_is_no_image(world, image, message):
    with pytest.raises(ValueError, match=message):
        world[0].embed(image)


def test_files_that_cannot_be_read_are_all_named(world, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"2 image file\(s\)") as info:
        world[0].embed([world[1][0], bad, tmp_path / "none.png"])
    assert [path for path, _ in info.value.failures] == [str(bad), str(tmp_path / "none.png")]


def test_cameras_are_names_numbers_or_unknown(world):
    reid, paths, _ = world
    numbers = reid.camera_numbers
    assert numbers(["gate", 1, None, -1, "unknown"], 5).tolist() == [0, 1, -1, -1, -1]
    assert numbers("yard", 2).tolist() == [1, 1]
    assert numbers("unknown", 2).tolist() == [-1, -1]
    assert numbers(np.array([0, 1]), 2).tolist() == [0, 1]
    assert numbers(None, 2) is None
    with pytest.raises(ValueError, match=r"does not know camera 'street' \(known: gate, yard\)"):
        reid.embed(paths[:1], cameras="street")
    with pytest.raises(ValueError, match="does not know camera 2"):
        reid.embed(paths[:1], cameras=[2])
    with pytest.raises(ValueError, match="1 cameras for 2 images"):
        reid.embed(paths[:2], cameras=["gate"])


@pytest.mark.parametrize("output", ["z_id", "h", "joint"])
@pytest.mark.parametrize("parts", ["trunk", "heads"])
def test_each_image_is_embedded_by_its_camera_s_statistics(world, parts, output):
    _, paths, _ = world
    plain, model = tiny_embae(), tiny_embae()
    model.learn_cameras(parts, ["gate", "yard"])
    tell_apart(model, by=0.5)
    plain.output = model.output = output
    before, ours = ReID(Bundle(plain, INPUT), "cpu"), ReID(Bundle(model, INPUT), "cpu")
    cameras = ["yard", "gate", None, "gate", "yard", "yard", "unknown", "gate"]
    got = ours.embed(paths, cameras=cameras)
    alone = [ours.embed(p, cameras=c or "unknown") for p, c in zip(paths, cameras, strict=True)]
    np.testing.assert_allclose(got, np.concatenate(alone), atol=1e-5)
    for row in (2, 6):  # never seen: as it was
        np.testing.assert_allclose(got[row], before.embed(paths[row])[0], atol=1e-5)
    changed = not np.allclose(got[0], before.embed(paths[0])[0], atol=1e-2)
    assert changed == (parts == "trunk" or output != "h")
    of_yard = ReID(Bundle(model.of_camera(1), INPUT), "cpu")
    np.testing.assert_allclose(got[[0, 4, 5]], of_yard.embed([paths[n] for n in (0, 4, 5)]),
                               atol=1e-5)
    many = ours.embed(paths * 40, cameras=cameras * 40)  # enough of them to freeze the trunk
    np.testing.assert_allclose(many, np.tile(got, (40, 1)), atol=1e-5)


def test_numbers_are_the_model_s_whatever_order_names_have():
    model = tiny_embae(cameras=("yard", "gate"))
    reid, image = ReID(Bundle(model, INPUT), "cpu"), picture(0, 0, 0)
    by_name = reid.embed(image, cameras="yard")
    assert np.array_equal(reid.embed(image, cameras=0), by_name)
    assert not np.allclose(reid.embed(image, cameras=1), by_name, atol=1e-2)


def test_weights_that_change_are_seen_however_many_images_went_before(world):
    _, paths, root = world
    reid = ReID.load(root, device="cpu")
    before = reid.embed(paths * 40)
    with torch.no_grad():
        for parameter in reid.model.trunk.parameters():
            parameter.mul_(1.1)
    fresh = ReID(open_model(root), "cpu")
    fresh.model.load_state_dict(reid.model.state_dict())
    after = reid.embed(paths * 40)
    np.testing.assert_allclose(after[:8], fresh.embed(paths), atol=1e-5)
    assert not np.allclose(before[:8], after[:8], atol=1e-3)


def test_an_unknown_tta(world):
    with pytest.raises(ValueError, match="tta 'ten': must be one of none, flip"):
        world[0].embed(world[1], tta="ten")


# --- torchreid's FeatureExtractor -----------------------------------------------------------


def test_the_stand_in_gives_what_torchreid_s_gives(world):
    """torchreid's own class around the same network is the oracle."""
    reid, paths, root = world
    spec: InputSpec = reid.input
    mine = FeatureExtractor("osnet_x1_0", str(root), device="cpu", verbose=False)
    theirs = bridge.FeatureExtractor.__new__(bridge.FeatureExtractor)
    theirs.model, theirs.device, theirs.to_pil = reid.model, torch.device("cpu"), T.ToPILImage()
    theirs.preprocess = T.Compose(
        [T.Resize((HEIGHT, WIDTH)), T.ToTensor(), T.Normalize(spec.norm_mean, spec.norm_std)]
    )
    arrays = [np.asarray(picture(pid, 0, 0, (20, 50))) for pid in range(3)]
    tensor = torch.randn(2, 3, HEIGHT, WIDTH)
    for given in (paths, arrays, paths[0], arrays[0], tensor, tensor[0]):
        got = mine(given)
        assert isinstance(got, torch.Tensor)
        torch.testing.assert_close(got, theirs(given), atol=1e-5, rtol=1e-4)


def test_the_stand_in_s_settings(world):
    _, paths, root = world
    other = FeatureExtractor(
        model_path=root / "adapted.pth", image_size=(24, 12), pixel_norm=False, device="cpu",
        normalize=True, tta="flip",
    )
    assert other.reid.input == InputSpec(24, 12, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.allclose(other(paths).norm(dim=1), torch.ones(8))
    square = FeatureExtractor(model_path=root, image_size=24, device="cpu")
    assert (square.reid.input.height, square.reid.input.width) == (24, 24)
    if not torch.cuda.is_available():
        assert FeatureExtractor(model_path=root).device.type == "cpu"


def test_the_stand_in_hands_a_name_alone_to_torchreid(monkeypatch):
    calls = []

    class Stock:
        model = "theirs"

        def __init__(self, *args, **kwargs):
            calls.append((args, kwargs))

        def __call__(self, given):
            return ("theirs", given)

    monkeypatch.setattr(bridge, "FeatureExtractor", Stock)
    extractor = FeatureExtractor("osnet_x1_0", "", (128, 64), device="cpu")
    assert extractor("a.jpg") == ("theirs", "a.jpg") and extractor.model == "theirs"
    settings = {"pixel_norm": True, "device": "cpu", "verbose": True, "image_size": (128, 64)}
    assert calls == [(("osnet_x1_0", ""), settings)]
    with pytest.raises(ValueError, match="camera 'gate': this model knows no cameras"):
        extractor("a.jpg", camera="gate")
    with pytest.raises(ValueError, match="camera 'gate': osnet_x1_0 as it comes knows no cameras"):
        FeatureExtractor("osnet_x1_0", device="cpu", camera="gate")
    with pytest.raises(ValueError, match="model_path must name"):
        FeatureExtractor()
    with pytest.raises(ValueError, match="model_name 'osnet' is not in torchreid's zoo"):
        FeatureExtractor("osnet", device="cpu")


@pytest.mark.parametrize("name", ["", "osnet_x1_0"])
def test_the_stand_in_s_file_without_weights(tmp_path, name):
    weights = tmp_path / "osnet.pth"
    torch.save({"state_dict": {}}, weights)
    with pytest.raises(ValueError, match=r"osnet\.pth holds no weights: it is empty"):
        FeatureExtractor(name, weights, device="cpu")
