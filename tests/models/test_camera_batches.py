from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from embae_plugin.models.camera_batches import (
    SplitNorm,
    batch_of_cameras,
    join_norms,
    split_norms,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), BatchNormAct2d(5)
    )


def batch(*sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose cameras differ in light, and their cameras."""
    cameras = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    images = torch.randn(sum(sizes), 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return images * (1 + cameras.view(-1, 1, 1, 1)) + 3 * cameras.view(-1, 1, 1, 1), cameras


def test_each_camera_goes_through_the_network_as_if_alone():
    x, cameras = batch(6, 4, 5)
    split = net()
    split_norms(split)
    with batch_of_cameras(cameras):
        got = split(x)
    alone = torch.cat([net()(part) for part in x.split([6, 4, 5])])
    torch.testing.assert_close(got, alone)
    assert not torch.allclose(got, net()(x), atol=0.1)


def test_gradients_are_those_of_cameras_apart():
    x, cameras = batch(6, 4)
    split, plain = net(), net()
    split_norms(split)
    with batch_of_cameras(cameras):
        split(x).square().sum().backward()
    sum(plain(part).square().sum() for part in x.split([6, 4])).backward()
    grads = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in split.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-4)


def test_running_statistics_are_those_of_all_cameras_and_move_as_far_as_one_batch_moves_them():
    x, cameras = batch(50, 50)
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=0.2))
    split_norms(module)
    with batch_of_cameras(cameras):
        module(x)
    mean = module[0].running_mean
    first, second = (part.mean((0, 2, 3)) for part in x.split(50))
    assert (mean > 0.9 * 0.2 * torch.minimum(first, second)).all()
    assert (mean < 0.2 * torch.maximum(first, second)).all()
    torch.testing.assert_close(mean, 0.2 * x.mean((0, 2, 3)), rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [((6, 4), [6, 4]), ((5, 3), [8]), ((3, 5), [8]), ((1, 1, 1), [3]), ((4, 2, 6), [6, 6])],
)
def test_a_camera_of_few_rows_joins_its_neighbour(sizes, parts):
    _, cameras = batch(*sizes)
    with batch_of_cameras(cameras) as sizes:
        assert sizes == parts


def test_without_cameras_and_in_eval_mode_it_is_the_network_it_was():
    x, cameras = batch(6, 4)
    split, plain = net(), net()
    split_norms(split)
    torch.testing.assert_close(split(x), plain(x))  # and both move their statistics
    with batch_of_cameras(cameras):
        torch.testing.assert_close(split.eval()(x), plain.eval()(x))


def test_names_and_tensors_stay_and_joining_puts_the_layers_back():
    module = net()
    layers, state = list(module), module.state_dict(keep_vars=True)
    split_norms(module)
    now = module.state_dict(keep_vars=True)
    assert list(now) == list(state)
    assert all(now[name] is state[name] for name in state)
    assert isinstance(module[4], SplitNorm)
    join_norms(module.eval())
    assert list(module) == layers
    assert not any(layer.training for layer in module.modules())


def test_a_copy_made_meanwhile_works():
    x, _ = batch(6)
    module = net()
    split_norms(module)
    torch.testing.assert_close(copy.deepcopy(module)(x), net()(x))


def test_unsorted_batches_are_refused():
    with (
        pytest.raises(ValueError, match=r"sorted by camera; it has cameras \[0, 1, 0\]"),
        batch_of_cameras(torch.tensor([0, 0, 1, 1, 0])),
    ):
        pass


def test_layers_without_statistics_are_refused():
    with pytest.raises(ValueError, match="without running statistics or weights"):
        split_norms(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))


def test_inputs_of_two_dimensions():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    module = nn.Sequential(nn.BatchNorm1d(4))
    split_norms(module)
    with batch_of_cameras(torch.tensor([0] * 5 + [1] * 4)):
        got = module(x)
    torch.testing.assert_close(
        got, torch.cat([F.batch_norm(p, None, None, training=True) for p in x.split([5, 4])])
    )
