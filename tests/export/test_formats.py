"""What an exported file holds, takes and gives."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embae_plugin.export import FORMATS, ImagesToEmbeddings, export_model, formats
from embae_plugin.export.equality import largest_difference, unit_images
from embae_plugin.models.bundle import Bundle
from embae_plugin.reid import ReID
from tests.export.torchreid_bundles import bundle_of, random_network, with_cameras

ENDINGS = {"onnx": "onnx", "torchscript": "pt"}


@pytest.fixture(scope="module", params=sorted(FORMATS))
def exported(request, bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / f"model.{ENDINGS[request.param]}"
    about = export_model(bundle, path, request.param)
    return request.param, path, about


def by_hand(bundle, images: np.ndarray) -> np.ndarray:
    mean = np.array(bundle.input.norm_mean, np.float32)[:, None, None]
    std = np.array(bundle.input.norm_std, np.float32)[:, None, None]
    with torch.inference_mode():
        z = bundle.model(torch.from_numpy((images - mean) / std))
    return F.normalize(z, dim=1).numpy()


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_gives_the_model_s_embeddings(exported, bundle, batch):
    form, path, _ = exported
    images = np.random.default_rng(batch).random((batch, 3, 64, 32), dtype=np.float32)
    given = FORMATS[form][1](path)(images, np.full(batch, -1))
    np.testing.assert_allclose(given, by_hand(bundle, images), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)


def test_crops_embed_as_with_the_library(exported, bundle, crops):
    form, path, _ = exported
    files = sorted(crops.rglob("*.png"))
    given = FORMATS[form][1](path)(unit_images(files, bundle.input), np.full(len(files), -1))
    expected = ReID(bundle, "cpu").embed([str(file) for file in files], tta="none")
    np.testing.assert_allclose(given, expected, atol=2e-5)


def test_the_file_says_what_it_takes(exported):
    form, path, about = exported
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        texts = session.get_modelmeta().custom_metadata_map
        said = {k: json.loads(v) if k not in ("input", "trunk", "embae_version") else v
                for k, v in texts.items()}
        assert session.get_inputs()[0].shape == ["batch", 3, 64, 32]
        assert [one.name for one in session.get_inputs()] == ["images"]
    else:
        extra = {formats.EXTRA_FILE: ""}
        torch.jit.load(str(path), _extra_files=extra)
        said = json.loads(extra[formats.EXTRA_FILE])
    assert said == about
    assert (said["height"], said["width"], said["embedding_dim"]) == (64, 32, 16)
    assert said["mean"] == [0.4, 0.5, 0.6] and said["std"] == [0.2, 0.25, 0.3]
    assert said["trunk"] == "mobilenetv1_x0_25" and said["normalized"] is True
    assert said["camera_names"] == [] and said["flip_averaged"] is False


def test_lengths_and_mirror_images_as_asked(bundle, tmp_path):
    path = tmp_path / "m.pt"
    about = export_model(bundle, path, "torchscript", normalize=False, flip=True)
    images = torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    given = torch.jit.load(str(path))(images)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (bundle.input.norm_mean,
                                                         bundle.input.norm_std))
    with torch.inference_mode():
        x = (images - mean) / std
        expected = (bundle.model(x) + bundle.model(x.flip(3))) / 2
    torch.testing.assert_close(given, expected, atol=2e-5, rtol=1e-4)
    assert about["flip_averaged"] is True and about["normalized"] is False


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_model_that_knows_cameras_takes_one(form, bundle, tmp_path):
    model = copy.deepcopy(bundle.model)
    model.learn_cameras("trunk", ["left", "right"])
    for name, value in model.named_buffers():
        if name.startswith("trunk") and name.endswith("running_mean"):
            value += torch.arange(3.0)[:, None] * 0.05  # so that cameras differ
    two = Bundle(model, bundle.input)
    path = tmp_path / f"m.{ENDINGS[form]}"
    about = export_model(two, path, form)
    assert about["camera_names"] == ["left", "right"]
    run, graph = FORMATS[form][1](path), ImagesToEmbeddings(two)
    images = np.random.default_rng(0).random((8, 3, 64, 32), dtype=np.float32)
    assert largest_difference(graph, run, images, cameras=2) < 1e-4
    same = np.repeat(images[:1], 3, axis=0)
    left, right, unseen = run(same, np.array([0, 1, -1]))
    assert np.abs(left - right).max() > 1e-3 and np.abs(right - unseen).max() > 1e-3


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_adapted_zoo_network_guesses_the_camera_of_each_crop(form, tmp_path):
    bundle = bundle_of(with_cameras(random_network().state_dict()))  # 256 × 128 pixels
    bright = torch.tensor([0.4, 1.0]).repeat(4)[:, None, None, None]
    images = bright * torch.rand(8, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (bundle.input.norm_mean,
                                                         bundle.input.norm_std))
    camids, guess = np.arange(8) % 2, bundle.model.guess
    guess.learn(guess.marks((images - mean) / std).numpy(), camids)
    path = tmp_path / f"m.{ENDINGS[form]}"
    export_model(bundle, path, form, flip=True)
    run = FORMATS[form][1](path)
    guessed = run(images.numpy(), np.full(8, -1))
    np.testing.assert_allclose(guessed, ReID(bundle, "cpu").embed(images), atol=1e-4)
    np.testing.assert_allclose(guessed, run(images.numpy(), camids), atol=1e-5)
    assert np.abs(guessed - run(images.numpy(), 1 - camids)).max() > 1e-3
    if form == "onnx":
        import onnx

        nodes = onnx.load(str(path)).graph.node
        assert sum(node.op_type == "ArgMax" for node in nodes) == 1, "guessed once for both views"


def test_a_check_that_fails_leaves_the_old_file(bundle, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"the old one")

    def refuse(run):
        raise ValueError("not the same")

    with pytest.raises(ValueError, match="not the same"):
        export_model(bundle, path, "torchscript", check=refuse)
    assert path.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [path]


def test_mistakes(bundle, tmp_path):
    with pytest.raises(ValueError, match="'tflite': must be one of onnx, torchscript"):
        export_model(bundle, tmp_path / "m", "tflite")
    assert list(tmp_path.iterdir()) == []
