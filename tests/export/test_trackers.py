"""The files for trackers give, in each tracker's own class, the numbers of the network in them.

Crops have the network's size here: resizing differs between Pillow and OpenCV, and is theirs.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embae_plugin import ReID
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.export import export_model, torchreid_files
from embae_plugin.export.torchreid_files import file_names, write_torchreid_files
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from tests.crops_world import picture, tiny_embae
from tests.export.torchreid_bundles import (
    IMAGENET,
    State,
    bundle_of,
    by_torchreid,
    random_network,
    state_of,
    suit_deep_sort,
    with_cameras,
)

ARCHITECTURE = "osnet_x0_25"
CAMERAS = (-1, 0, 1)


@pytest.fixture(scope="module", params=["random", "msmt17"])
def weights(request) -> State:
    """OSNet with random weights, and torchreid's own trained on MSMT17."""
    if request.param == "random":
        return random_network(ARCHITECTURE).state_dict()
    path = Path(os.environ.get("EMBAE_TEST_WEIGHTS", "")) / f"{ARCHITECTURE}_msmt17.pth"
    if not path.is_file():
        pytest.skip(f"EMBAE_TEST_WEIGHTS names no folder with {path.name}")
    return torch.load(path, weights_only=True, map_location="cpu")


@pytest.fixture(scope="module")
def model(weights) -> EmbAE:
    return with_cameras(weights, arch=ARCHITECTURE)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> list[Path]:
    return write_torchreid_files(bundle_of(model), tmp_path_factory.mktemp("trackers"))


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """R, G, B pixels of noise and of drawn people, 256 x 128."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (256, 128, 3), dtype=np.uint8) for _ in range(2)]
    return noise + [np.asarray(picture(pid, pid % 2, 0, (128, 256))) for pid in range(4)]


@pytest.fixture(scope="module")
def expected(model, weights, crops) -> dict[int, np.ndarray]:
    """Embeddings of the crops for each camera, (6, 512)."""
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.norm_mean, IMAGENET.norm_std))
    x = (pixels - mean) / std
    found = {
        camera: by_torchreid(state_of(model, weights, camera), x, ARCHITECTURE).numpy()
        for camera in CAMERAS
    }
    assert np.abs(found[0] - found[1]).max() > 0.01 < np.abs(found[0] - found[-1]).max()
    return found


def agree(given: np.ndarray, wanted: np.ndarray) -> None:
    """To 1e-4 of the embeddings' length."""
    length = np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(given / length, wanted / length, atol=1e-4, rtol=0)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bgr_frame(crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A frame as OpenCV reads it, with the crops side by side, and their boxes (x1, y1, x2, y2)."""
    frame = np.full((400, 20 + 150 * len(crops), 3), 128, np.uint8)
    boxes = []
    for number, crop in enumerate(crops):
        x, y = 20 + 150 * number, 60
        frame[y : y + 256, x : x + 128] = crop[..., ::-1]
        boxes.append([x, y, x + 128, y + 256])
    return frame, np.array(boxes, dtype=np.float32)


# --- the files --------------------------------------------------------------------------------


def test_a_file_for_unknown_cameras_and_one_for_each_camera(files, model, weights):
    assert [path.name for path in files] == [
        "osnet_x0_25.pth", "osnet_x0_25_gate.pth", "osnet_x0_25_hall_2.pth"
    ]
    own = random_network(ARCHITECTURE).state_dict()
    for camera, path in zip(CAMERAS, files, strict=True):
        content = torch.load(path, weights_only=True)
        assert content["camera"] == ["gate", "hall 2", ""][camera]
        assert content["model_name"] == ARCHITECTURE and content["img_size"] == [256, 128]
        state = content["state_dict"]
        assert set(state) == {key for key in own if not key.startswith("classifier")}
        for key, value in state_of(model, weights, camera).items():
            passed_over = key.startswith("classifier") or "num_batches" in key
            assert passed_over or torch.equal(state[key], value)


def test_the_model_itself_gives_each_camera_s_embeddings(model, crops, expected):
    names = {0: "gate", 1: "hall 2", -1: "unknown"}
    reid = ReID(bundle_of(model), "cpu")
    for camera, name in names.items():
        agree(reid.embed(crops, cameras=name, normalize=False, tta="none"), expected[camera])


def test_a_file_holds_its_own_camera_alone(files, tmp_path):
    """A row of a model's statistics is a view of all cameras' rows, which torch would save too."""
    many = with_cameras(random_network(ARCHITECTURE).state_dict(), [str(n) for n in range(9)])
    path = write_torchreid_files(bundle_of(many), tmp_path)[0]
    assert path.stat().st_size < 1.05 * files[0].stat().st_size


@pytest.mark.parametrize("links", [True, False])
def test_each_file_has_a_second_name_that_follows_it(tmp_path, monkeypatch, links):
    """Also when the files are written again, by a model with other weights."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    state, earlier = random_network(ARCHITECTURE).state_dict(), b""
    for scale in (1, 2):
        scaled = {key: scale * value for key, value in state.items()}
        files = write_torchreid_files(bundle_of(with_cameras(scaled)), tmp_path)
        seconds = [path.with_suffix(".pt") for path in files]
        assert sorted(tmp_path.iterdir()) == sorted([*files, *seconds])  # no draft is left
        for path, second in zip(files, seconds, strict=True):
            assert second.read_bytes() == path.read_bytes()
            assert second.samefile(path) == links
        again = torch.load(seconds[1], weights_only=True)["state_dict"]
        assert torch.equal(again["conv1.conv.weight"], scaled["conv1.conv.weight"])
        assert files[1].read_bytes() != earlier
        earlier = files[1].read_bytes()


def test_a_second_name_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    bundle = bundle_of(with_cameras(random_network(ARCHITECTURE).state_dict()))
    second = write_torchreid_files(bundle, tmp_path)[0].with_suffix(".pt")
    names, before = sorted(tmp_path.iterdir()), second.read_bytes()
    monkeypatch.setattr(Path, "hardlink_to", _no_links)
    monkeypatch.setattr(torchreid_files.shutil, "copyfile", _no_links)
    bundle.model.f_emb.requires_grad_(False).fc[0].weight.zero_()
    with pytest.raises(OSError, match="no more"):
        write_torchreid_files(bundle, tmp_path)
    assert second.read_bytes() == before and sorted(tmp_path.iterdir()) == names


def _no_links(*_: object) -> None:
    raise OSError(errno.EMLINK, "no more")


def test_cameras_get_names_that_differ_and_are_safe():
    long = "x" * 50
    names = ["gate", "Gate", "a b/c", "a_b_c", "..", "10.0.0.7", "入口", 4 * long, 5 * long]
    assert file_names(names) == [
        "gate", "Gate-2", "a_b_c", "a_b_c-2", "camera", "10_0_0_7", "入口", long, f"{long}-2"
    ]


@pytest.mark.parametrize("camera", ["deliveries", "veri", "vehicleid", "vehicleideri"])
def test_boxmot_takes_no_camera_for_a_vehicle_dataset(camera):
    [part] = file_names([camera])
    assert "veri" not in part and "vehicleid" not in part and part.replace("-", "") == camera


def test_a_network_that_is_none_of_torchreids_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of torchreid's"):
        write_torchreid_files(bundle_of(tiny_embae(0, ("gate",))), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_normalisation_is_refused(tmp_path):
    spec = InputSpec(256, 128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    bundle = Bundle(with_cameras(random_network().state_dict()), spec)
    with pytest.raises(ValueError, match="normalise by ImageNet's"):
        write_torchreid_files(bundle, tmp_path)


# --- torchreid --------------------------------------------------------------------------------


def test_torchreids_feature_extractor(files, crops, expected, capsys):
    for camera, path in zip(CAMERAS, files, strict=True):
        extractor = bridge.FeatureExtractor(ARCHITECTURE, str(path), device="cpu", verbose=False)
        said = capsys.readouterr().out
        assert "Successfully loaded" in said and "discarded" not in said
        agree(extractor(list(crops)).numpy(), expected[camera])


GITHUB = """
import sys
import numpy as np
from torchreid import __version__
from torchreid.utils import FeatureExtractor
extractor = FeatureExtractor(sys.argv[1], sys.argv[2], device="cpu", verbose=False)
np.save(sys.argv[4], extractor(list(np.load(sys.argv[3]))).numpy())
assert __version__ == "1.4.0"
"""


def test_torchreid_of_github(files, crops, expected, tmp_path):
    checkout = os.environ.get("EMBAE_TORCHREID_GITHUB", "")
    if not checkout:
        pytest.skip("EMBAE_TORCHREID_GITHUB names no checkout of deep-person-reid")
    np.save(tmp_path / "crops.npy", np.stack(crops))
    done = subprocess.run(
        [sys.executable, "-c", GITHUB, ARCHITECTURE, str(files[1]), "crops.npy", "z.npy"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(checkout).resolve())},
    )
    assert done.returncode == 0, done.stderr
    agree(np.load(tmp_path / "z.npy"), expected[0])


# --- trackers ---------------------------------------------------------------------------------


def test_deep_sort_realtime(monkeypatch, files, crops, expected):
    pytest.importorskip("deep_sort_realtime")
    suit_deep_sort(monkeypatch)
    from deep_sort_realtime.deepsort_tracker import DeepSort

    frame, boxes = bgr_frame(crops)
    tracker = DeepSort(embedder="torchreid", embedder_model_name=ARCHITECTURE,
                       embedder_wts=str(files[1]), embedder_gpu=False)
    found = [([x, y, right - x, bottom - y], 0.9, "person") for x, y, right, bottom in boxes]
    agree(np.stack(tracker.generate_embeds(frame, found)), expected[0])


def test_roboflow_reid(files, crops, expected, tmp_path, recwarn):
    reid, supervision = pytest.importorskip("reid"), pytest.importorskip("supervision")
    paths = [tmp_path / f"{number}.png" for number in range(len(crops))]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(crop).save(path)
    frame, boxes = bgr_frame(crops)
    for camera, file in zip(CAMERAS, files, strict=True):
        model = reid.ReIDModel.from_pretrained(str(file), architecture=ARCHITECTURE, device="cpu")
        assert not [w for w in recwarn if "load" in str(w.message)]  # a part, or not safely
        agree(model.extract_embeddings_from_paths([str(p) for p in paths]), expected[camera])
        agree(model.extract_embeddings(supervision.Detections(boxes), frame), expected[camera])


def test_boxmot(files, crops, expected):
    pytest.importorskip("boxmot")
    runtime = pytest.importorskip("boxmot.reid.core.runtime", reason="BoxMOT from 20 on")
    frame, boxes = bgr_frame(crops)
    for camera, path in zip(CAMERAS, files, strict=True):
        reid = runtime.ReID(path.with_suffix(".pt"), device="cpu")  # it opens no .pth
        agree(reid(frame, boxes=boxes), unit(expected[camera]))


def test_ultralytics_takes_the_onnx_file(bundle, tmp_path, monkeypatch):
    """A model that needs no camera: Ultralytics gives a graph images and nothing else."""
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    encoders = pytest.importorskip("ultralytics.trackers.utils.reid")
    pytest.importorskip("onnx")
    export_model(bundle, tmp_path / "m.onnx", "onnx")
    encoder = encoders.ReID(str(tmp_path / "m.onnx"), device="cpu")
    assert encoder.imgsz == (bundle.input.height, bundle.input.width)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
    given = encoder.model(encoder._crops_to_tensor([rgb[..., ::-1] for rgb in pixels]))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (bundle.input.norm_mean,
                                                         bundle.input.norm_std))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        wanted = bundle.model((images - mean) / std).numpy()
    np.testing.assert_allclose(np.asarray(given), unit(wanted), atol=1e-4)
