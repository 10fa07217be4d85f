from __future__ import annotations

import copy

import pytest
import torch
import torchreid
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models import EmbAE, Trunk, build_trunk
from embae_plugin.models import factories as model_factories


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 16, generator=generator(9))


def small(**options) -> EmbAE:
    sizes = {"z_id_dim": 6, "z_nui_dim": 5, "hidden_dim": 12, "generator": generator()}
    return EmbAE(build_trunk("mobilenetv1_x0_25", "", generator()), **{**sizes, **options})


def test_the_parts_have_the_papers_layers_by_default():
    """SPEC of paper 3.2 and 4.2: 1024-1024-128 heads, 256-1024-1024 decoder."""
    model = EmbAE(build_trunk("mobilenetv1"))
    assert model.f_emb.fc1.weight.shape == (1024, 1024)
    assert model.f_emb.fc2.weight.shape == (128, 1024)
    assert model.f_emb.order == "relu_bn"
    assert model.f_nui.num_heads == 1
    assert (model.f_nui.in_dim, model.f_nui.hidden_dim, model.f_nui.out_dim) == (1024, 1024, 128)
    assert model.f_dec.fc1.weight.shape == (1024, 256)
    assert model.f_dec.fc2.weight.shape == (1024, 1024)
    assert not hasattr(model, "classifier")
    children = [name for name, _ in model.named_children()]
    assert children == ["trunk", "f_emb", "f_nui", "f_dec"]
    assert sum(p.numel() for c in model.children() for p in c.parameters()) == sum(
        p.numel() for p in model.parameters()
    )


def test_eval_gives_the_embedding_of_the_trunks_features():
    model = small().eval()
    with torch.no_grad():
        z_id = model(images())
        torch.testing.assert_close(z_id, model.f_emb(model.trunk(images())))
    assert z_id.shape == (4, model.feature_dim) == (4, 6)


@pytest.mark.parametrize("loss", ["softmax", "triplet", "embae"])
def test_training_gives_what_torchreids_engines_expect(loss):
    model = small(num_classes=3, loss=loss).train()
    result = model(images())
    if loss == "softmax":
        assert result.shape == (4, 3)
        return
    logits, z_id = result
    torch.testing.assert_close(logits, model.classifier(z_id))
    assert logits.shape == (4, 3) and z_id.shape == (4, 6)


def test_without_classes_there_are_no_logits():
    logits, z_id = small().train()(images())
    assert logits is None and z_id.shape == (4, 6)


def test_reconstruct_decodes_both_latents_in_order():
    model = small()
    z_id, z_nui = torch.randn(3, 6), torch.randn(3, 5)
    expected = model.f_dec(torch.cat([z_id, z_nui], 1))
    assert torch.equal(model.reconstruct(z_id, z_nui), expected)
    assert expected.shape == (3, model.trunk.feature_dim)


def test_reset_nuisance_gives_fresh_heads_and_touches_nothing_else():
    model = small().double().eval()
    before = copy.deepcopy(model)
    model.reset_nuisance(3, generator(4))
    assert model.f_nui.num_heads == 3 and not model.f_nui.training
    assert model.f_nui.fc1_weight.dtype == torch.float64
    for name in ("trunk", "f_emb", "f_dec"):
        old, new = getattr(before, name).state_dict(), getattr(model, name).state_dict()
        assert all(torch.equal(old[key], new[key]) for key in old)
    again = copy.deepcopy(before)
    again.reset_nuisance(3, generator(4))
    assert torch.equal(again.f_nui.fc2_weight, model.f_nui.fc2_weight)
    with pytest.raises(ValueError, match="at least one head, not 0"):
        model.reset_nuisance(0, None)


def test_without_nuisance_heads_there_is_no_autoencoder_until_it_is_asked_for():
    model = small(num_nuisance=0).double().eval()
    assert model.f_nui is None and model.f_dec is None
    assert [name for name, _ in model.named_children()] == ["trunk", "f_emb"]
    rebuilt = EmbAE.from_spec(model.spec()).double()
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.f_nui is None and rebuilt.spec() == model.spec()
    before = model(images().double())
    model.reset_nuisance(2, generator(4))
    assert model.f_nui.num_heads == 2 and not model.f_nui.training and not model.f_dec.training
    assert torch.equal(model(images().double()), before)
    h = torch.randn(3, 256, dtype=torch.double, generator=generator(2))
    z_nui = model.f_nui(h, torch.tensor([0, 1, 1]))
    again = model.reconstruct(model.f_emb(h), z_nui)
    assert again.shape == h.shape and again.dtype == torch.double
    whole = small(num_nuisance=2)
    assert model.spec() == whole.spec() and set(model.state_dict()) == set(whole.state_dict())


def test_a_spec_rebuilds_the_shape_without_touching_the_random_state():
    model = small(num_classes=3, loss="triplet", order="bn_relu", num_nuisance=2)
    spec = model.spec()
    assert spec == {
        "trunk": "mobilenetv1_x0_25",
        "num_classes": 3,
        "loss": "triplet",
        "z_id_dim": 6,
        "z_nui_dim": 5,
        "hidden_dim": 12,
        "num_nuisance": 2,
        "order": "bn_relu",
    }
    state = torch.get_rng_state()
    rebuilt = EmbAE.from_spec(spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert rebuilt.spec() == spec
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.eval(), model.eval()
    assert torch.equal(rebuilt(images()), model(images()))


def test_a_spec_of_something_else_is_refused():
    spec = small().spec()
    del spec["order"]
    with pytest.raises(ValueError, match=r"missing \['order'\], unknown \['depth'\]"):
        EmbAE.from_spec({**spec, "depth": 3})


def test_names_in_a_state_dict_stay():
    """Checkpoints hold these names."""
    names = {key for key in small(num_classes=2).state_dict() if not key.startswith("trunk.net.")}
    layers = {f"{fc}.{kind}" for fc in ("fc1", "fc2") for kind in ("weight", "bias")}
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    stacked = {"running_mean", "running_var", "num_batches_tracked"}
    stacked |= {f"{part}_{kind}" for part in ("fc1", "bn", "fc2") for kind in ("weight", "bias")}
    assert names == (
        {f"f_emb.{layer}" for layer in layers | {f"bn.{kind}" for kind in norm}}
        | {f"f_nui.{name}" for name in stacked}
        | {f"f_dec.{layer}" for layer in layers}
        | {"classifier.weight", "classifier.bias"}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "center"}, "one of embae, softmax, triplet, not 'center'"),
        ({"loss": "softmax"}, "'softmax' with 0 classes"),
        ({"num_classes": -1}, "with -1 classes"),
        ({"z_nui_dim": -1}, "z_nui_dim of an EmbAE model must be at least 0, not -1"),
        ({"z_id_dim": 0}, "z_id_dim of an EmbAE model must be at least 1, not 0"),
        ({"order": "relu"}, "one of relu_bn, bn_relu"),
        ({"num_nuisance": -1}, "num_nuisance of an EmbAE model must be at least 0, not -1"),
    ],
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EmbAE(Trunk("t", nn.Identity(), 4, (0, 0, 0), (1, 1, 1)), **options)


def test_training_runs_channels_last_under_autocast_with_full_precision_latents():
    model = small(num_classes=3).train().to(memory_format=torch.channels_last)
    # PyTorch's bfloat16 gradient of a depthwise layer of stride 2 is undefined on one-pixel-wide
    # maps, which this network has for images 16 pixels wide.
    x = torch.randn(8, 3, 64, 32, generator=generator(9)).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.trunk.net.conv_stem(x).dtype == torch.bfloat16
        logits, z_id = model(x)
    assert logits.dtype == z_id.dtype == torch.float32
    (z_id.square().mean() + logits.square().mean()).backward()
    for name in ("trunk", "f_emb", "classifier"):
        assert all(
            p.grad is not None and bool(torch.isfinite(p.grad).all())
            for p in getattr(model, name).parameters()
        )


def replica(module: nn.Module) -> nn.Module:
    """As nn.DataParallel makes them, whose replicas hold their weights as plain attributes."""
    copied = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(copied, name, None if parameter is None else parameter.detach())
    for name, child in module._modules.items():
        setattr(copied, name, None if child is None else replica(child))
    return copied


def test_data_parallel_replicas_run():
    model = small(num_nuisance=2).eval()
    copied = replica(model)
    assert list(copied.f_emb.parameters()) == list(copied.f_nui.parameters()) == []
    with torch.no_grad():
        z_id, h = copied(images()), copied.trunk(images())
        torch.testing.assert_close(z_id, model(images()))
        z_nui = copied.f_nui(h, torch.tensor([0, 1, 1, 0]))
        torch.testing.assert_close(z_nui, model.f_nui(h, torch.tensor([0, 1, 1, 0])))
        torch.testing.assert_close(copied.reconstruct(z_id, z_nui), model.reconstruct(z_id, z_nui))


def test_memory_format_changes_nothing():
    model = small().eval()
    expected = model(images())
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images().to(memory_format=torch.channels_last)), expected)


# --- in torchreid -----------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch):
    """The factories on a narrow trunk, so that tests stay fast."""
    for name in model_factories.TRUNK_OF_MODEL:
        monkeypatch.setitem(model_factories.TRUNK_OF_MODEL, name, "mobilenetv1_x0_25")


def test_factories_have_torchreids_signature_and_names(narrow):
    for name in model_factories.TRUNK_OF_MODEL:
        factory = getattr(model_factories, name)
        assert factory.__qualname__ == name
        model = factory(num_classes=4, loss="triplet", pretrained=False, use_gpu=False)
        assert model.classifier.out_features == 4 and model.loss == "triplet"
    assert factory(2, pretrained=False, z_id_dim=9).z_id_dim == 9


@pytest.mark.parametrize(
    ("name", "trunk", "width"),
    [
        ("embae_mobilenetv1", "mobilenetv1", 1024),
        ("embae_mobilenetv2_x1_0", "torchreid:mobilenetv2_x1_0", 1280),
        ("embae_osnet_x1_0", "torchreid:osnet_x1_0", 512),
    ],
)
def test_each_factory_has_its_trunk(name, trunk, width):
    model = getattr(model_factories, name)(0, "embae", pretrained=False, hidden_dim=8)
    assert (model.trunk.name, model.trunk.feature_dim) == (trunk, width)
    model.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 128)


def test_the_resnet_factory_has_torchreids_resnet():
    """Only named, since building it takes seconds."""
    assert model_factories.TRUNK_OF_MODEL["embae_resnet50"] == "torchreid:resnet50"


def test_pretrained_asks_for_imagenet_weights(narrow):
    with pytest.raises(ValueError, match="nobody publishes ImageNet weights"):
        model_factories.embae_mobilenetv1(3)


def test_torchreid_counts_its_operations():
    model = small(num_classes=3).train()
    parameters, operations = torchreid.utils.compute_model_complexity(model, (1, 3, 256, 128))
    trunk_only = torchreid.utils.compute_model_complexity(model.trunk, (1, 3, 256, 128))[1]
    # f_emb: 256 x 12 and 12 x 6 multiplications, as torchreid counts linear layers.
    assert parameters > 0 and operations - trunk_only >= 256 * 12 + 12 * 6
    assert model.training


def test_torchreid_can_train_the_new_layers_faster():
    model = small(num_classes=3)
    optimizer = bridge.build_optimizer(
        model, lr=0.1, staged_lr=True, new_layers=["f_emb", "classifier"], base_lr_mult=0.01
    )
    groups = {group["lr"]: len(group["params"]) for group in optimizer.param_groups}
    fast = [*model.f_emb.parameters(), *model.classifier.parameters()]
    assert groups == {0.001: len(list(model.parameters())) - len(fast), 0.1: len(fast)}


def test_torchreid_can_open_only_some_layers():
    model = small(num_classes=3).train()
    torchreid.utils.open_specified_layers(model, ["f_emb", "classifier"])
    assert not model.trunk.training and model.f_emb.training
    assert not any(p.requires_grad for p in model.trunk.parameters())
    model(images())
