"""Batch norm by camera: torch's own batch norm, camera by camera."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records
from embae_plugin.models import EmbAE, build_trunk
from embae_plugin.models.camera_norm import (
    CameraNorm,
    at_cameras,
    camera_layers,
    of_camera,
    use_cameras,
)
from embae_plugin.models.inference import freeze
from tests.methods.tiny import same_weights, tiny_store, write_crops

WIDTH, CAMERAS = 5, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_norm(kind: str) -> nn.Module:
    """A batch norm that has learned something; ``act``: timm's, which ends in a ReLU."""
    made = {
        "2-D": lambda: nn.BatchNorm1d(WIDTH, eps=1e-3, momentum=0.2),
        "4-D": lambda: nn.BatchNorm2d(WIDTH, eps=1e-3, momentum=0.2),
        "act": lambda: BatchNormAct2d(WIDTH, eps=1e-3, momentum=0.2),
    }[kind]()
    draw = generator()
    with torch.no_grad():
        for value in (made.weight, made.running_var):
            value.uniform_(0.5, 2.0, generator=draw)
        for value in (made.bias, made.running_mean):
            value.uniform_(-1.0, 1.0, generator=draw)
    return made.double()


def inputs(kind: str, rows: int, seed: int = 1) -> torch.Tensor:
    shape = (rows, WIDTH) if kind == "2-D" else (rows, WIDTH, 3, 2)
    return torch.randn(shape, generator=generator(seed), dtype=torch.double) * 2 + 0.7


def layer_of(kind: str) -> CameraNorm:
    """A layer whose cameras' statistics differ."""
    layer = CameraNorm(batch_norm(kind), CAMERAS)
    draw = generator(7)
    layer.running_mean.uniform_(-1, 1, generator=draw)
    layer.running_var.uniform_(0.3, 3, generator=draw)
    return layer


def plain_of(kind: str, layer: CameraNorm, camera: int) -> nn.Module:
    """torch's or timm's batch norm, with one row of a layer's statistics."""
    norm = batch_norm(kind)
    norm.running_mean.copy_(layer.running_mean[camera])
    norm.running_var.copy_(layer.running_var[camera])
    return norm


KINDS = pytest.mark.parametrize("kind", ["2-D", "4-D", "act"])


# --- training -------------------------------------------------------------------------------


@KINDS
def test_training_is_batch_norm_of_each_cameras_rows(kind):
    layer = layer_of(kind).train()
    before = layer.running_mean.clone(), layer.running_var.clone()
    camids = torch.tensor([0] * 6 + [2] * 4)  # camera 1 is not in the batch
    x = inputs(kind, 10).requires_grad_()
    with at_cameras(layer, camids):
        out = layer(x)
    weights = torch.randn(out.shape, generator=generator(3), dtype=torch.double)
    (out * weights).sum().backward()

    other = x.detach().clone().requires_grad_()
    norms = {camera: plain_of(kind, layer, camera).train() for camera in (0, 2)}
    for camera, norm in norms.items():
        norm.running_mean.copy_(before[0][camera])
        norm.running_var.copy_(before[1][camera])
    expected = torch.cat([norms[0](other[:6]), norms[2](other[6:])])
    (expected * weights).sum().backward()

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, other.grad)
    for name in ("weight", "bias"):
        total = sum(getattr(norm, name).grad for norm in norms.values())
        torch.testing.assert_close(getattr(layer, name).grad, total)
    for camera, norm in norms.items():
        torch.testing.assert_close(layer.running_mean[camera], norm.running_mean)
        torch.testing.assert_close(layer.running_var[camera], norm.running_var)
        assert not torch.equal(layer.running_mean[camera], before[0][camera])
    for row in (1, CAMERAS):  # the absent camera, and the one never seen
        assert torch.equal(layer.running_mean[row], before[0][row])
        assert torch.equal(layer.running_var[row], before[1][row])


@KINDS
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_move_running_statistics_and_are_normalised_by_them(kind, rows):
    layer = layer_of(kind).train()
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    x = inputs(kind, rows + 4).requires_grad_()
    with at_cameras(layer, torch.tensor([1] * rows + [2] * 4)):  # LEAST is 4
        out = layer(x)
    # Camera 1 now has the moments of numbers of which its rows are momentum (0.2) * rows / 4, and
    # all others have its mean and variance of before.
    few = x[:rows].detach().transpose(0, 1).flatten(1)
    share = 0.05 * rows
    first = (1 - share) * mean[1] + share * few.mean(1)
    second = (1 - share) * (var[1] + mean[1] ** 2) + share * few.square().mean(1)
    torch.testing.assert_close(layer.running_mean[1], first)
    torch.testing.assert_close(layer.running_var[1], second - first**2)
    assert not torch.equal(layer.running_mean[2], mean[2])
    assert torch.equal(layer.running_mean[[0, 3]], mean[[0, 3]])
    other = x.detach().clone().requires_grad_()
    expected = plain_of(kind, layer, 1).eval()(other[:rows])
    torch.testing.assert_close(out[:rows], expected)
    weights = torch.randn(out.shape, generator=generator(3), dtype=torch.double)
    (out * weights)[:rows].sum().backward()  # statistics are constants to it
    (expected * weights[:rows]).sum().backward()
    torch.testing.assert_close(x.grad[:rows], other.grad[:rows])


@pytest.mark.parametrize("kind", ["2-D", "4-D"])
def test_single_rows_tell_a_cameras_statistics_over_the_steps(kind):
    """Rows of unlike brightness, one a step: no batch has seen how much they differ."""
    layer = CameraNorm(batch_norm(kind), 2).train()
    draw, means, variances = generator(5), [], []
    for step in range(2000):
        x = inputs(kind, 1, seed=step)
        x += torch.randn(1, generator=draw, dtype=torch.double) * 3 + 5
        with torch.no_grad(), at_cameras(layer, torch.tensor([1])):
            layer(x)
        if step >= 500:
            means.append(layer.running_mean[1].clone())
            variances.append(layer.running_var[1].clone())
    # By construction: mean 0.7 + 5, variance 2² + 3².
    torch.testing.assert_close(
        torch.stack(means).mean(), torch.tensor(5.7).double(), atol=0.4, rtol=0
    )
    torch.testing.assert_close(
        torch.stack(variances).mean(), torch.tensor(13.0).double(), atol=1.5, rtol=0
    )


def test_a_batch_of_many_small_cameras_can_be_learned_from():
    """Buffers move between the rows of one camera and of the next, before the backward pass."""
    layer = layer_of("4-D").train()
    x = inputs("4-D", 11).requires_grad_()
    with at_cameras(layer, torch.tensor([0] * 5 + [1] * 2 + [2] * 4)):
        layer(layer(x)).square().sum().backward()  # twice: shared layers are, too
    assert torch.isfinite(x.grad).all() and (x.grad != 0).any()


@pytest.mark.parametrize(
    "camids", [[0, 1, 0, 1], [0, 0, 1, 0], [-1, -1, 0, 0], [1, 0, 0, 1], [0, 0, 3, 3], [9]]
)
def test_a_training_batch_that_is_not_sorted_by_known_cameras_is_refused(camids):
    layer = layer_of("2-D").train()
    with (
        pytest.raises(ValueError, match="sorted by camera, and its cameras be 0 to 2; it has"),
        at_cameras(layer, torch.tensor(camids)),
    ):
        pass
    with pytest.raises(ValueError, match="trained without the cameras"):
        layer(inputs("2-D", 4))  # the refused ones are not kept


def test_cameras_that_lie_together_need_not_ascend():
    layer = layer_of("2-D").train()
    twin = copy.deepcopy(layer)
    x = inputs("2-D", 9)
    with at_cameras(layer, torch.tensor([2] * 4 + [0] * 5)):
        out = layer(x)
    with at_cameras(twin, torch.tensor([0] * 5 + [2] * 4)):
        other = twin(torch.cat([x[4:], x[:4]]))
    torch.testing.assert_close(out, torch.cat([other[5:], other[:5]]))


@KINDS
def test_training_without_cameras_is_refused_and_moves_no_statistics(kind):
    layer = layer_of(kind).train()
    before = copy.deepcopy(layer.state_dict())
    x = inputs(kind, 8)
    with pytest.raises(ValueError, match=r"without the cameras of its images: pass .*\(camids\)"):
        layer(x)
    with pytest.raises(ValueError, match="without the cameras"), at_cameras(layer, None):
        layer(x)
    layer.eval()
    with (
        at_cameras(layer, torch.tensor([0] * 8)),
        pytest.raises(ValueError, match="without the cameras"),
    ):
        layer.train()(x)  # named for evaluation, where a batch need not be sorted
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@KINDS
def test_rows_of_no_known_camera_move_the_last_row_where_that_is_asked_for(kind):
    layer = layer_of(kind).train()
    before = layer.running_mean.clone()
    x = inputs(kind, 9)
    with at_cameras(layer, torch.tensor([-1] * 5 + [1] * 4), common=True):
        out = layer(x)
    norm = plain_of(kind, layer, -1).train()
    norm.running_mean.copy_(before[-1])
    torch.testing.assert_close(out[:5], norm(x[:5]))
    torch.testing.assert_close(layer.running_mean[-1], norm.running_mean)
    assert (layer.running_mean != before).any(1).tolist() == [False, True, False, True]


# --- evaluation -----------------------------------------------------------------------------


@KINDS
def test_evaluation_is_batch_norm_with_the_statistics_of_each_rows_camera(kind):
    layer = layer_of(kind).eval()
    x, camids = inputs(kind, 7), [2, 0, -1, 1, 0, 2, -1]  # −1: never seen
    with at_cameras(layer, torch.tensor(camids)):
        out = layer(x)
    for row, camera in enumerate(camids):
        expected = plain_of(kind, layer, camera).eval()(x[row : row + 1])
        torch.testing.assert_close(out[row : row + 1], expected)


@KINDS
def test_no_camera_is_one_never_seen_and_one_number_serves_all_rows(kind):
    layer, x = layer_of(kind).eval(), inputs(kind, 4)
    never = plain_of(kind, layer, CAMERAS).eval()(x)
    torch.testing.assert_close(layer(x), never)
    with at_cameras(layer, None):
        torch.testing.assert_close(layer(x), never)
    with at_cameras(layer, torch.tensor([1])):
        torch.testing.assert_close(layer(x), plain_of(kind, layer, 1).eval()(x))


def test_cameras_hold_for_the_block_only_and_blocks_may_nest():
    layer = layer_of("2-D").eval()
    x = inputs("2-D", 3)
    never = layer(x)
    with at_cameras(layer, torch.tensor([0, 1, 2])):
        first = layer(x)
        with at_cameras(layer, torch.tensor([1])):
            pass
        assert torch.equal(layer(x), first)
        with at_cameras(layer, None):
            assert torch.equal(layer(x), never)
        assert torch.equal(layer(x), first)
        with at_cameras(nn.Linear(2, 2), torch.tensor([0])):  # knows no cameras
            assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), never)
    with pytest.raises(RuntimeError), at_cameras(layer, torch.tensor([0, 1, 2])):
        raise RuntimeError
    assert torch.equal(layer(x), never)
    assert not torch.allclose(first, never)


def test_threads_do_not_see_one_another_s_cameras():
    """Both are inside their blocks at once; a third, outside of any, sees neither."""
    layer, x = layer_of("4-D").eval(), inputs("4-D", 5)
    inside, found = threading.Barrier(3, timeout=20), {}

    def work(camera: int) -> None:
        with at_cameras(layer, torch.full((5,), camera)):
            inside.wait()
            found[camera] = layer(x)
            inside.wait()

    threads = [threading.Thread(target=work, args=(camera,)) for camera in (0, 2)]
    for thread in threads:
        thread.start()
    inside.wait()
    found[-1] = layer(x)
    inside.wait()
    for thread in threads:
        thread.join()
    for camera in (0, 2, -1):
        torch.testing.assert_close(found[camera], plain_of("4-D", layer, camera).eval()(x))


def test_it_starts_with_the_statistics_that_there_were():
    source = batch_norm("act").eval()
    x = inputs("act", 4)
    expected = source(x)
    layer = CameraNorm(source, CAMERAS)
    assert not layer.training and layer.cameras == CAMERAS
    assert layer.weight is source.weight and layer.bias is source.bias
    with at_cameras(layer, torch.tensor([0, 1, 2, -1])):
        torch.testing.assert_close(layer(x), expected)


def test_a_batch_norm_without_statistics_or_weights_is_refused():
    for options in ({"track_running_stats": False}, {"affine": False}):
        with pytest.raises(ValueError, match="without running statistics or weights"):
            CameraNorm(nn.BatchNorm1d(3, **options), 2)
    with pytest.raises(ValueError, match="for 0 cameras in 1 batch norm layers"):
        use_cameras(nn.Sequential(nn.BatchNorm1d(3)), 0)
    with pytest.raises(ValueError, match="for 2 cameras in 0 batch norm layers"):
        use_cameras(nn.Sequential(nn.LayerNorm(3)), 2)


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_and_autocast_change_nothing_but_digits(training):
    layer = layer_of("act").float().train(training)
    twins = [copy.deepcopy(layer) for _ in range(3)]
    x, camids = inputs("act", 9).float(), torch.tensor([0] * 4 + [1] * 5)
    with at_cameras(layer, camids):
        expected = layer(x)
    with at_cameras(twins[0], camids):
        last = twins[0](x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16), at_cameras(twins[1], camids):
        half = twins[1](x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)
    assert twins[1].running_mean.dtype == torch.float32
    torch.testing.assert_close(twins[1].running_mean, layer.running_mean, atol=0.01, rtol=0.01)


# --- trunks ---------------------------------------------------------------------------------


def camera_trunk(name: str = "mobilenetv1_x0_25", cameras: int = CAMERAS):
    """A trunk whose cameras' statistics differ, in eval mode."""
    trunk = build_trunk(name, "", generator())
    use_cameras(trunk, cameras)
    spread(trunk)
    return trunk.eval()


def spread(module: nn.Module) -> None:
    """Gives the cameras different statistics, near those of the images of :func:`images`."""
    draw = generator(5)
    module.train()
    with torch.no_grad():
        for camera in range(camera_layers(module)[0].cameras):
            x = images(8, camera) * (1 + camera) + 0.2 * camera
            if not hasattr(module, "norm_mean"):
                x = torch.randn(8, 256, generator=draw) + 0.3 * camera
            for _ in range(15):
                with at_cameras(module, torch.full((8,), camera)):
                    module(x)
    module.eval()


def images(count: int = 4, seed: int = 9) -> torch.Tensor:
    return torch.randn(count, 3, 32, 16, generator=generator(seed))


@pytest.mark.parametrize(
    "name", ["mobilenetv1_x0_25", "mobilenetv2_050", "torchreid:mobilenetv2_x1_0"]
)
def test_a_trunk_of_one_camera_is_the_trunk_at_that_camera_and_freezes(name):
    trunk = camera_trunk(name)
    x = images()
    found = {}
    for camera in (0, -1):
        plain = of_camera(trunk, camera)
        assert not camera_layers(plain) and not plain.training
        with torch.inference_mode(), at_cameras(trunk, torch.full((len(x),), camera)):
            expected = trunk(x)
        with torch.inference_mode():
            torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-4)
            scale = float(expected.abs().max())
            frozen = freeze(trunk, (32, 16), camera=camera)
            assert (frozen(x) - expected).abs().max() < 1e-4 * scale
        found[camera] = expected
    assert not torch.allclose(found[0], found[-1])
    assert len(camera_layers(trunk)) > 10  # the trunk itself is as it was


def test_a_copy_has_statistics_of_its_own():
    trunk = camera_trunk()
    twin = copy.deepcopy(trunk)
    x = images()
    with torch.inference_mode(), at_cameras(trunk, torch.tensor([2])):
        expected = trunk(x)
        assert torch.equal(twin(x), expected)
        for layer in camera_layers(twin):
            layer.running_mean += 1
        assert torch.equal(trunk(x), expected) and not torch.allclose(twin(x), expected)


# --- EmbAE ----------------------------------------------------------------------------------


def embae(parts: str = "", output: str = "z_id") -> EmbAE:
    trunk = build_trunk("mobilenetv1_x0_25", "", generator())
    model = EmbAE(trunk, z_id_dim=6, z_nui_dim=5, hidden_dim=12, generator=generator())
    if parts:
        model.learn_cameras(parts, [str(n) for n in range(CAMERAS)])
        spread(model.trunk if parts == "trunk" else model.f_emb)
    model.output = output
    return model.eval()


@pytest.mark.parametrize("parts", ["", "heads", "trunk"])
@pytest.mark.parametrize(("output", "width"), [("z_id", 6), ("h", 256), ("joint", 262)])
def test_a_model_is_built_again_from_its_description(parts, output, width):
    model = embae(parts, output)
    rebuilt = EmbAE.from_spec(model.spec())
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.spec() == model.spec() and same_weights(model, rebuilt)
    assert rebuilt.feature_dim == width
    camids = torch.tensor([2, 0, -1, 1])
    with torch.inference_mode():
        out = model(images(), camids)
        assert out.shape == (4, width)
        assert torch.equal(rebuilt.eval()(images(), camids), out)
        aware = not torch.allclose(model(images()), out)
    assert aware == (parts == "trunk" or (parts == "heads" and output != "h"))


def test_joint_embeddings_are_both_at_length_1_side_by_side():
    model = embae("trunk", "joint")
    camids = torch.tensor([2, 0, -1, 1])
    with torch.inference_mode():
        joint = model(images(), camids)
        model.output = "h"
        h = model(images(), camids)
        model.output = "z_id"
        z_id = model(images(), camids)
        torch.testing.assert_close(z_id, model.f_emb(h))
    expected = torch.cat([nn.functional.normalize(h), nn.functional.normalize(z_id)], dim=1)
    torch.testing.assert_close(joint, expected)


def test_old_descriptions_still_do_and_wrong_ones_are_named():
    old = embae().spec()
    assert not {"output", "camera_parts", "camera_names", "cameras", "head"} & set(old)
    model = EmbAE.from_spec(old)
    assert (model.output, model.camera_parts, model.cameras) == ("z_id", "", 0)
    assert model.camera_names == () and model.head == "dense"
    counted = EmbAE.from_spec({**old, "camera_parts": "heads", "cameras": 2})
    assert counted.camera_names == ("0", "1")  # of before cameras had names
    for names in ("ab", ["a", 1], ["a", "a"], 3):
        with pytest.raises(ValueError, match="camera_names are .*, which must be different names"):
            EmbAE.from_spec({**old, "camera_parts": "heads", "camera_names": names})
    with pytest.raises(ValueError, match=r"head of an EmbAE model is one of dense, own, none"):
        EmbAE.from_spec({**old, "head": "wig"})
    with pytest.raises(ValueError, match=r"output.*'pixels'"):
        EmbAE.from_spec({**old, "output": "pixels"})
    with pytest.raises(ValueError, match="statistics by camera of 'eyes'"):
        EmbAE.from_spec({**old, "camera_parts": "eyes", "cameras": 2})
    with pytest.raises(ValueError, match="for 0 cameras"):
        EmbAE.from_spec({**old, "camera_parts": "heads"})


def test_a_model_learns_cameras_once():
    model = embae("heads")
    for parts in ("heads", "trunk"):
        with pytest.raises(ValueError, match=r"have none yet \(it has: heads\)"):
            model.learn_cameras(parts, ["a", "b"])
    with pytest.raises(ValueError, match=r"one of heads, trunk, .*\(it has: none\)"):
        embae().learn_cameras("f_nui", ["a", "b"])


def test_cameras_have_names():
    model = embae()
    model.learn_cameras("trunk", ["yard", "gate", "0"])
    assert model.camera_names == ("yard", "gate", "0") and model.cameras == 3
    assert model.camera_numbers(["0", "gate", "street", "yard"]).tolist() == [2, 1, -1, 0]
    assert model.camera_numbers([]).tolist() == []
    assert EmbAE.from_spec(model.spec()).camera_names == model.camera_names


def test_a_camera_named_twice_is_refused_and_nothing_is_changed():
    model = embae()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="camera_names are .*gate.*, which must be different"):
        model.learn_cameras("trunk", ["gate", "yard", "gate"])
    assert model.spec() == before.spec() and same_weights(model, before)


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_a_model_of_one_camera_is_the_model_at_that_camera(parts):
    model, x = embae(parts, "joint"), images()
    for camera in (0, 2, -1):
        plain = model.of_camera(camera)
        assert not camera_layers(plain) and (plain.camera_names, plain.camera_parts) == ((), "")
        assert "camera_names" not in plain.spec()
        rebuilt = EmbAE.from_spec(plain.spec())
        rebuilt.load_state_dict(plain.state_dict())
        with torch.inference_mode():
            expected = model(x, torch.full((4,), camera))
            torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(rebuilt.eval()(x), expected, atol=1e-5, rtol=1e-4)
    assert model.cameras == CAMERAS  # the model itself is as it was


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_cameras_out_of_range_are_cameras_never_seen(parts):
    model = embae(parts)
    with torch.inference_mode():
        never = model(images())
        for number in (-1, -7, CAMERAS, 10**9):
            camids = torch.tensor([number, 0, number, 1])
            found = model(images(), camids)
            torch.testing.assert_close(found[::2], never[::2])
            assert not torch.allclose(found[1], never[1])
    assert model.known_cameras(torch.tensor([-2, 0, 2, 3])).tolist() == [-1, 0, 2, -1]


def test_a_model_without_cameras_takes_their_numbers_and_ignores_them():
    model = embae()
    with torch.inference_mode():
        assert torch.equal(model(images(), torch.tensor([5, 0, -1, 1])), model(images()))
    model.train()
    assert model(images(), torch.tensor([1, 0, 1, 0]))[1].shape == (4, 6)


@pytest.mark.parametrize("parts", ["heads", "trunk"])
def test_a_training_forward_normalises_by_camera(parts):
    model, twin = embae(parts).train(), embae(parts).train()
    x, camids = images(10), torch.tensor([0] * 5 + [2] * 5)
    _, z_id = model(x, camids)
    layer = camera_layers(model)[0]
    before = camera_layers(twin)[0].running_mean
    moved = (layer.running_mean != before).any(1)
    assert moved.tolist() == [True, False, True, False]
    if parts == "trunk":
        with at_cameras(twin.trunk, camids):
            torch.testing.assert_close(z_id, twin.f_emb(twin.trunk(x)))
    z_id.sum().backward()
    assert layer.weight.grad is not None
    with pytest.raises(ValueError, match="sorted by camera"):
        model(x, camids.flip(0)[torch.arange(10) % 5 * 2])
    with pytest.raises(ValueError, match=r"be 0 to 2; it has cameras \[3\]"):
        model(x, torch.full((10,), CAMERAS))
    with pytest.raises(ValueError, match="trained without the cameras of its images"):
        model(x)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> ImageRecords:
    """Cameras 0 to 3 in turns, of which the model knows 0 to 2."""
    return write_crops(tmp_path_factory.mktemp("crops"), people=2, cameras=4, each=1)


@pytest.mark.parametrize(
    ("parts", "output"), [("", "joint"), ("heads", "z_id"), ("heads", "joint"), ("trunk", "joint")]
)
def test_forward_and_the_embedding_of_records_agree(parts, output, records):
    model, store = embae(parts, output), tiny_store()
    found = embed_records(model, store, records, "crops", tta="none", normalize=False)
    pixels = store.images(records, "crops").batch(torch.arange(len(records)))
    x = (pixels.float() / 255 - 0.5) / 0.5
    x = x.permute(0, 3, 1, 2) if x.shape[-1] == 3 else x
    with torch.inference_mode():
        expected = model(x, torch.from_numpy(records.camids))
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-4 * scale, rtol=1e-4)
    order = np.random.default_rng(0).permutation(len(records))
    mixed = embed_records(model, store, records.rows(order), "crops", "none", normalize=False)
    torch.testing.assert_close(mixed, found[torch.from_numpy(order)], atol=1e-4 * scale, rtol=1e-4)
