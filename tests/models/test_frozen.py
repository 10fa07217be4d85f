from __future__ import annotations

import logging
import threading
import time

import pytest
import torch
from torch import nn

from embae_plugin.models import inference as module
from embae_plugin.models.camera_norm import at_cameras, camera_layers, use_cameras
from embae_plugin.models.inference import WORTH_IT, FrozenTrunks
from embae_plugin.models.trunks import Trunk, build_trunk
from tests.models.engines import engine
from tests.threads import one_thread

__all__ = ["engine", "one_thread"]

SIZE = (64, 32)


@pytest.fixture
def trunk() -> Trunk:
    return build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0)).eval()


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def with_cameras(trunk: Trunk) -> Trunk:
    use_cameras(trunk, 3)
    for layer in camera_layers(trunk):
        layer.running_mean += 0.1 * torch.arange(4.0)[:, None]
    return trunk


@pytest.fixture
def made(monkeypatch) -> list[Trunk]:
    """The trunks that were frozen."""
    calls: list[Trunk] = []
    freeze = module.freeze
    monkeypatch.setattr(
        module, "freeze", lambda trunk, *a, **k: calls.append(trunk) or freeze(trunk, *a, **k)
    )
    return calls


def ready(ours: FrozenTrunks) -> list[object]:
    """The copies, once they are made."""
    return [copy.result(60) for copy in ours._copies.values()]


def cameras_of(ours: FrozenTrunks) -> list[int]:
    return sorted(camera for camera, *_ in ours._copies)


def test_it_freezes_once_when_enough_images_have_come(trunk, made, engine):
    ours, x = FrozenTrunks(), images(WORTH_IT // 2)
    with torch.inference_mode():
        expected = trunk(x)
        for number in (0, 1, 1, 1):
            got = ours.features(trunk, x)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
            assert len(ready(ours)) == len(made) == number
    (copy,) = ready(ours)
    assert isinstance(copy, nn.Module) == (engine == "torch")


def test_the_trunk_answers_until_the_copy_is_ready(trunk, monkeypatch):
    begin, freeze, x = threading.Event(), module.freeze, images(WORTH_IT)
    by_trunk = []
    trunk.register_forward_hook(lambda *_: by_trunk.append(threading.current_thread().name))
    monkeypatch.setattr(module, "freeze", lambda *a, **k: begin.wait(60) and freeze(*a, **k))
    ours = FrozenTrunks()
    with torch.inference_mode():
        first, second = ours.features(trunk, x), ours.features(trunk, x)
        assert len(by_trunk) == 2 and torch.equal(first, second)
        begin.set()
        assert ready(ours) != [None]
        third = ours.features(trunk, x)
    assert by_trunk.count("MainThread") == 2  # the third is the copy's
    torch.testing.assert_close(third, first, rtol=0, atol=1e-5)


def test_weights_that_change_while_a_copy_is_made(trunk, monkeypatch):
    begin, freeze, x = threading.Event(), module.freeze, images(WORTH_IT)
    monkeypatch.setattr(module, "freeze", lambda *a, **k: begin.wait(60) and freeze(*a, **k))
    ours = FrozenTrunks()
    with torch.inference_mode():
        ours.features(trunk, x)
    stale = list(ours._copies.values())
    with torch.no_grad():
        next(trunk.parameters()).mul_(2)
    begin.set()
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(ours.features(trunk, x), trunk(x), rtol=1e-4, atol=1e-5)
            assert ready(ours) and not set(stale) & set(ours._copies.values())


def test_what_cannot_be_frozen_is_said_once_and_answered_by_the_trunk(trunk, monkeypatch, caplog):
    with_cameras(trunk)
    calls = []

    def fails(*_, **__):
        calls.append(1)
        raise RuntimeError("no such operator")

    monkeypatch.setattr(module, "freeze", fails)
    ours, x = FrozenTrunks(), images(WORTH_IT)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        for camera in (0, 0, 1, 1, 0, 2):
            with at_cameras(trunk, torch.tensor([camera])):
                expected = trunk(x)
            assert torch.equal(ours.features(trunk, x, torch.tensor([camera])), expected)
            ready(ours)
    assert len(calls) == 1 and caplog.text.count("cannot be frozen") == 1
    assert "no such operator" in caplog.text


def test_each_camera_has_its_own_and_unknown_ones_the_common(trunk, engine):
    with_cameras(trunk)
    cameras = torch.tensor([2, 0, -1, 0] * (2 * WORTH_IT))
    x, ours = images(len(cameras)), FrozenTrunks()
    with torch.inference_mode():
        with at_cameras(trunk, cameras):
            expected = trunk(x)
        for _ in range(2):
            got = ours.features(trunk, x, cameras)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            ready(ours)
    assert cameras_of(ours) == [-1, 0, 2]


def test_one_camera_for_a_whole_batch(trunk):
    with_cameras(trunk)
    x, ours = images(WORTH_IT), FrozenTrunks()
    with torch.inference_mode():
        ours.features(trunk, x, torch.tensor([1]))
        ready(ours)
        one = ours.features(trunk, x, torch.tensor([1]))
        each = ours.features(trunk, x, torch.ones(len(x), dtype=torch.long))
    torch.testing.assert_close(one, each)


def test_a_few_images_of_many_cameras_go_together(trunk):
    with_cameras(trunk)
    seen = []
    trunk.register_forward_hook(lambda *_: seen.append(1))
    cameras = torch.tensor([0, 1, 2, -1] * 3)
    with torch.inference_mode():
        FrozenTrunks().features(trunk, images(len(cameras)), cameras)
    assert len(seen) == 1


def test_cameras_with_and_without_a_copy_in_one_small_batch(trunk):
    with_cameras(trunk)
    by_trunk, ours = [], FrozenTrunks()
    with torch.inference_mode():
        for camera in (0, 2):
            ours.features(trunk, images(WORTH_IT), torch.tensor([camera]))
            ready(ours)
        x, cameras = images(5), torch.tensor([2, 1, 0, -1, 2])
        with at_cameras(trunk, cameras):
            expected = trunk(x)
        trunk.register_forward_hook(lambda _, given, out: by_trunk.append(len(out)))
        got = ours.features(trunk, x, cameras)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert by_trunk == [2]  # of the cameras 1 and −1, together
        torch.testing.assert_close(ours.features(trunk, x[:1], cameras[:1]), expected[:1],
                                   rtol=1e-4, atol=1e-4)
    assert by_trunk == [2]


@pytest.mark.parametrize("change", ["weight", "statistics", "layer", "data"])
def test_changed_weights_or_another_trunk_are_frozen_anew(trunk, made, engine, change):
    ours, x = FrozenTrunks(), images(WORTH_IT)
    other = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(5)).eval()
    with torch.inference_mode():
        before = ours.features(trunk, x)
    ready(ours)
    with torch.no_grad():
        if change == "weight":
            next(trunk.parameters()).mul_(2)
        elif change == "layer":
            trunk.net.bn1 = nn.Identity()
        elif change == "data":
            first = next(trunk.parameters())
            first.data = first.data * 2
        else:
            trunk.net.bn1.running_mean += 0.5
    for changed in (trunk, trunk, other, other):
        with torch.inference_mode():
            got, expected = ours.features(changed, x), changed(x)
        ready(ours)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(got, before, rtol=1e-2)
    assert len(made) == 3 and len(ours._copies) == 1


def test_each_size_of_image_has_its_own(trunk, engine):
    ours = FrozenTrunks()
    for size in ((64, 32), (48, 24), (64, 32)):
        x = torch.randn(WORTH_IT, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            for _ in range(2):
                got, expected = ours.features(trunk, x), trunk(x)
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
                ready(ours)
    assert [key[1:] for key in ours._copies] == [(48, 24), (64, 32)]


def test_only_so_many_copies_are_kept(trunk, made):
    with_cameras(trunk)
    ours, x = FrozenTrunks(most=2), images(WORTH_IT)
    with torch.inference_mode():
        for camera in (0, 1, 0, 2, 0):
            ours.features(trunk, x, torch.tensor([camera]))
            ready(ours)
    assert cameras_of(ours) == [0, 2] and len(made) == 3  # 1 was used longest ago


def test_a_camera_whose_copy_was_dropped_must_pay_for_another(trunk, made):
    with_cameras(trunk)
    ours = FrozenTrunks(most=1)
    with torch.inference_mode():
        for camera in (0, 1):
            ours.features(trunk, images(WORTH_IT), torch.tensor([camera]))
            ready(ours)
        ours.features(trunk, images(WORTH_IT - 1), torch.tensor([0]))
        assert len(made) == 2
        ours.features(trunk, images(4), torch.tensor([0]))
        ready(ours)
    assert len(made) == 3 and cameras_of(ours) == [0]


def test_threads_share_the_copies_and_make_each_once(trunk, made, engine):
    with_cameras(trunk)
    ours, x = FrozenTrunks(), images(WORTH_IT)
    expected = {}
    with torch.inference_mode():
        for camera in (0, 1, 2):
            with at_cameras(trunk, torch.tensor([camera])):
                expected[camera] = trunk(x)
    wrong, start = [], threading.Barrier(6, timeout=30)

    def work(camera: int) -> None:
        start.wait()
        for _ in range(4):
            time.sleep(0.01)
            with torch.inference_mode():
                got = ours.features(trunk, x, torch.tensor([camera]))
            if not torch.allclose(got, expected[camera], rtol=1e-4, atol=1e-5):
                wrong.append(camera)

    threads = [threading.Thread(target=work, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(ready(ours)) == len(made) == 3 and cameras_of(ours) == [0, 1, 2]


def test_a_trunk_made_in_inference_mode_works(engine):
    with torch.inference_mode():
        trunk = build_trunk("mobilenetv1_x0_25", generator=torch.Generator().manual_seed(0)).eval()
        x = images(WORTH_IT)
        ours = FrozenTrunks()
        for _ in range(2):
            got = ours.features(trunk, x)
            torch.testing.assert_close(got, trunk(x), rtol=1e-4, atol=1e-5)
            assert ready(ours) != [None]
