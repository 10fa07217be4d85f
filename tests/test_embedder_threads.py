"""Many threads, many cameras, one model: every answer is that of its own camera."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embae_plugin import FeatureExtractor, ReID
from embae_plugin.data.image_bank import CorruptImageError
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import FrozenTrunks
from embae_plugin.precision import _held, _switches
from tests.crops_world import HEIGHT, INPUT, WIDTH, tell_apart, tiny_embae
from tests.threads import one_thread

__all__ = ["one_thread"]

THREADS, CALLS, MOST = 16, 10, 40  # calls of each thread; crops in a call
CAMERAS = tuple(f"camera {n}" for n in range(12))
PIXELS = np.random.default_rng(0).integers(0, 255, (MOST, HEIGHT, WIDTH, 3), dtype=np.uint8)


def model_of(kind: str) -> EmbAE:
    """A model of twelve cameras that differ; ``network``: somebody else's, with its own fc."""
    if kind == "network":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = EmbAE.of_network("torchreid:osnet_x0_25")
    else:
        model = tiny_embae()
    model.learn_cameras("heads" if kind == "heads" else "trunk", CAMERAS)
    tell_apart(model, by=0.3)
    return model.eval()


def expected_of(model: EmbAE, tta: str, normalize: bool) -> dict[int, np.ndarray]:
    """Embeddings of all crops for each camera, by a plain model that knows none, in one thread."""
    x = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    found = {}
    for camera in (*range(len(CAMERAS)), -1):
        plain = model.of_camera(camera).eval()
        with torch.no_grad():
            z = plain(x)
            z = (z + plain(x.flip(3))) / 2 if tta == "flip" else z
        found[camera] = (F.normalize(z, dim=1) if normalize else z).numpy()
    values = list(found.values())
    apart = [np.abs(a - b).max(1).min() / np.abs(a).max()
             for n, a in enumerate(values) for b in values[:n]]  # fmt: skip
    assert min(apart) > 0.01  # a hundred times what is allowed: no camera passes for another
    return found


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    scale = float(np.abs(wanted).max())
    return found.shape == wanted.shape and np.allclose(found, wanted, 1e-4, 1e-5 * scale)


def named(numbers: list[int], draw: random.Random) -> list[object]:
    """Cameras by name or number; −1 for one never seen in all its forms."""
    forms = ["unknown", None, -1]
    return [draw.choice(forms if n < 0 else [CAMERAS[n], n]) for n in numbers]


def in_threads(work: Callable[[int, random.Random], None], count: int = THREADS) -> None:
    """Runs ``work(number, random numbers)`` in threads that start together; raises what it does."""
    start, errors = threading.Barrier(count, timeout=60), []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number, random.Random(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads take turns every few microseconds, so that what they share gets mixed up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["medium", "highest"])
def precision(request) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def switches() -> list[object]:
    return [getattr(owner, name) for owner, name, _ in _switches()]


@pytest.mark.parametrize(
    ("kind", "kept", "calls"),
    [("trunk", 16, 20), ("heads", 16, 20), ("network", 16, 8), ("trunk", 3, 5)],
)
def test_every_answer_is_that_of_its_own_camera(kind, kept, calls):
    """One camera for a call, or one for each crop; ``kept``: copies, fewer than cameras, too."""
    model = model_of(kind)
    expected, reid = expected_of(model, "flip", True), ReID(Bundle(model, INPUT), "cpu")
    reid._trunks = FrozenTrunks(kept)
    wrong, done = [], []

    def work(number: int, draw: random.Random) -> None:
        for call in range(calls):
            rows = draw.sample(range(MOST), draw.randint(1, MOST))
            if call % 2:
                numbers = [draw.randint(-1, len(CAMERAS) - 1)] * len(rows)
                cameras = named(numbers[:1], draw)[0]
                cameras = "unknown" if cameras is None else cameras
            else:
                numbers = [draw.randint(-1, len(CAMERAS) - 1) for _ in rows]
                cameras = named(numbers, draw)
            found = reid.embed(list(PIXELS[rows]), cameras=cameras)
            wanted = np.stack([expected[n][row] for n, row in zip(numbers, rows, strict=True)])
            if not same(found, wanted):
                wrong.append((number, call, len(rows), float(np.abs(found - wanted).max())))
            done.append(call)

    in_threads(work)
    assert not wrong, f"{len(wrong)} of {len(done)}: {wrong[:5]}"
    assert len(done) == THREADS * (calls)


class Fault(Exception):
    """What some calls end with, deep inside."""


def test_precision_is_exact_inside_and_as_it_was_afterwards_whatever_fails(precision, tmp_path):
    """A third of the calls fail: at the camera, at a crop, at a file, or in the network."""
    model = model_of("trunk")
    expected, reid = expected_of(model, "flip", True), ReID(Bundle(model, INPUT), "cpu")
    (tmp_path / "bad.png").write_bytes(b"none")
    local, inside, wrong, failed = threading.local(), [], [], []

    def hook(*_: object) -> None:
        inside.append(torch.get_float32_matmul_precision())
        if getattr(local, "fault", False):
            raise Fault

    model.f_emb.register_forward_pre_hook(hook)
    bad: list[tuple[type[Exception], list[object], object]] = [
        (ValueError, [PIXELS[0]], "no such camera"),
        (ValueError, [PIXELS[0], PIXELS[0, :0]], CAMERAS[3]),
        (CorruptImageError, [PIXELS[0], str(tmp_path / "bad.png")], CAMERAS[4]),
        (Fault, list(PIXELS[:5]), CAMERAS[5]),
    ]
    before = switches()

    def work(number: int, draw: random.Random) -> None:
        for call in range(CALLS):
            if call % 3 == 2:
                kind, images, camera = bad[draw.randrange(len(bad))]
                local.fault = kind is Fault
                with pytest.raises(kind):
                    reid.embed(images, cameras=camera)
                local.fault = False
                failed.append(kind)
                continue
            rows = draw.sample(range(MOST), draw.randint(1, MOST))
            camera = draw.randint(-1, len(CAMERAS) - 1)
            cameras = "unknown" if camera < 0 else CAMERAS[camera]
            if not same(reid.embed(list(PIXELS[rows]), cameras=cameras), expected[camera][rows]):
                wrong.append((number, call))

    in_threads(work)
    assert not wrong and {Fault, ValueError, CorruptImageError} <= set(failed)
    reid._trunks._maker.shutdown()  # frozen copies are checked in exact precision, too
    assert set(inside) == {"highest"}
    assert torch.get_float32_matmul_precision() == precision and switches() == before
    assert _held.users == 0


@pytest.mark.parametrize("given", ["arrays", "tensors"])
def test_the_stand_in_in_threads_with_a_camera_in_each_call(tmp_path, given):
    """As a program with one stream for each camera has it: the call's camera, or its own."""
    model = model_of("trunk")
    save_bundle(tmp_path / "a.pth", Bundle(model, INPUT))
    extractor = FeatureExtractor(
        model_path=tmp_path / "a.pth", camera=CAMERAS[7], device="cpu", verbose=False
    )
    expected = expected_of(model, "none", False)
    tensors = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    wrong = []

    def work(number: int, draw: random.Random) -> None:
        for call in range(CALLS):
            rows = draw.sample(range(MOST), draw.randint(1, MOST))
            images = list(PIXELS[rows]) if given == "arrays" else tensors[rows]
            camera = number % len(CAMERAS)
            own = call % 4 == 3
            found = extractor(images) if own else extractor(images, camera=CAMERAS[camera])
            if not same(found.numpy(), expected[7 if own else camera][rows]):
                wrong.append((number, call))

    in_threads(work)
    assert not wrong


def test_one_extractor_for_each_camera_in_threads(tmp_path):
    """Its camera in the constructor, and one warning of none from one without."""
    model = model_of("heads")
    save_bundle(tmp_path / "a.pth", Bundle(model, INPUT))
    extractors = [
        FeatureExtractor(model_path=tmp_path / "a.pth", camera=name, device="cpu", verbose=False)
        for name in CAMERAS
    ]
    expected, wrong = expected_of(model, "none", False), []

    def work(number: int, draw: random.Random) -> None:
        for call in range(CALLS):
            rows = draw.sample(range(MOST), draw.randint(1, MOST))
            found = extractors[number](list(PIXELS[rows])).numpy()
            if not same(found, expected[number][rows]):
                wrong.append((number, call))

    in_threads(work, len(CAMERAS))
    assert not wrong
