"""Somebody else's Re-ID network as a model: torchreid's own class is the oracle."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin import ReID
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models import EmbAE
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.camera_norm import CameraNorm, at_cameras, camera_layers
from embae_plugin.models.input_spec import InputSpec
from tests.crops_world import tell_apart
from tests.methods.tiny import same_weights
from tests.networks import random_network
from tests.threads import one_thread

__all__ = ["one_thread"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchreid")  # HACNN's old calls

OWN_HEAD = ("osnet_x0_25", "osnet_ain_x0_25", "resnet50_fc512")
POOLED = ("mobilenetv2_x1_0", "resnet50", "mlfn")
WHOLE = ("hacnn",)  # no single pooled feature: all of it is the trunk
NAMES = (*OWN_HEAD, *POOLED, *WHOLE)
FEW = ("osnet_x0_25", "mobilenetv2_x1_0", "hacnn")  # one of each kind
CAMERAS = ("gate", "yard", "hall")


def images(arch: str, count: int = 3) -> torch.Tensor:
    size = (160, 64) if arch == "hacnn" else (128, 64)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(3))


def model_of(arch: str, net: nn.Module) -> EmbAE:
    """The model with the weights of torchreid's network."""
    model, state = EmbAE.of_network(f"torchreid:{arch}"), net.state_dict()
    for part in (model.trunk.net, model.f_emb):
        part.load_state_dict({key: state[key] for key in part.state_dict()})
    return model.eval()


@cache
def made(arch: str) -> tuple[str, nn.Module, EmbAE]:
    """A name, torchreid's network with random weights, and the model of it; not to be changed."""
    net = random_network(arch)
    return arch, net, model_of(arch, net)


@pytest.fixture(scope="module", params=NAMES)
def both(request) -> tuple[str, nn.Module, EmbAE]:
    return made(request.param)


@pytest.fixture(scope="module", params=FEW)
def some(request) -> tuple[str, nn.Module, EmbAE]:
    return made(request.param)


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 1e-6) -> bool:
    """Equal up to a share of the largest value."""
    same = found.shape == expected.shape
    return same and bool((found - expected).abs().max() <= share * expected.abs().max())


def load(arch: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """torchreid's network with this state, of which nothing but its classifiers may be missing."""
    net = bridge.build_model(arch, 5, pretrained=False, use_gpu=False)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected and all(key.startswith("classifier") for key in missing), missing
    return net.eval()


# --- the network as it is -------------------------------------------------------------------


def test_embeddings_are_those_of_torchreids_own_network(both):
    arch, net, model = both
    x = images(arch)
    with torch.no_grad():
        expected, found = net(x), model(x)
    assert expected.ndim == 2 and close(found, expected)
    assert model.feature_dim == expected.shape[1]
    assert len(torch.unique(expected.round(decimals=6), dim=0)) == len(x)  # of three images


def test_what_the_model_says_of_itself(both):
    arch, _, model = both
    own = arch in OWN_HEAD
    assert model.head == ("own" if own else "none")
    assert (model.architecture, model.learned_output) == (arch, "z_id")
    assert model.feature_name == f"z_id of torchreid:{arch}"
    assert model.trunk.evaluated == (arch in WHOLE)
    assert model.trunk.size == ((160, 64) if arch == "hacnn" else (256, 128))
    assert model.f_nui is None and model.f_dec is None and model.camera_names == ()
    assert [type(part).__name__ for part in model.network()] == ["Trunk", "OwnHead"]
    assert bool(list(model.f_emb.parameters())) == own
    with torch.no_grad():
        h = model.trunk(images(arch))
        assert h.shape[1] == model.trunk.feature_dim
        assert own or h.shape[1] == model.feature_dim
        model.output = "h"
        assert close(model(images(arch)), h) and model.feature_dim == h.shape[1]
        model.output = "z_id"


def test_no_weight_is_lost_but_the_classifiers(both):
    _, net, model = both
    ours = {**model.trunk.net.state_dict(), **model.f_emb.state_dict()}
    theirs = {k: v for k, v in net.state_dict().items() if not k.startswith("classifier")}
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for name, p in net.named_parameters() if not name.startswith("classifier")
    )


def triplet_features(arch: str, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What torchreid's network gives a triplet loss in training, as its evaluation puts it."""
    net = bridge.build_model(arch, 7, loss="triplet", pretrained=False, use_gpu=False)
    net.load_state_dict(state)
    _, features = net.train()(x)
    if arch != "hacnn":
        return features
    return torch.cat([F.normalize(part, dim=1) for part in features], dim=1)


def test_training_gives_the_feature_that_torchreids_triplet_loss_gets(both):
    arch, net, model = both
    ours, x = copy.deepcopy(model).train(), images(arch, 4)
    logits, z = ours(x)
    assert logits is None
    expected = triplet_features(arch, net.state_dict(), x)
    assert z.shape == (4, model.feature_dim) and close(z, expected.detach(), 1e-5)
    (z * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    without = [name for name, p in ours.named_parameters() if p.grad is None]
    assert not without and all(torch.isfinite(p.grad).all() for p in ours.parameters())


def test_training_moves_the_statistics_and_evaluation_does_not(some):
    arch, _, model = some
    ours = copy.deepcopy(model).train()
    assert all(m.training for m in ours.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    before = {name: b.clone() for name, b in ours.named_buffers() if "running_mean" in name}
    ours(images(arch, 4))
    moved = [name for name, b in ours.named_buffers()
             if name in before and not torch.equal(b, before[name])]
    assert len(moved) == len(before)
    ours.eval()
    after = copy.deepcopy(ours)
    ours(images(arch, 4))
    assert same_weights(ours, after)
    assert not any(m.training for m in ours.modules())


def test_network_features_are_the_embeddings_with_their_graph(some):
    arch, _, model = some
    x = images(arch)
    found = model.network_features(x, None)
    assert found.requires_grad and close(found.detach(), model(x).detach())


@pytest.mark.parametrize("cameras", [(), CAMERAS])
def test_a_model_is_built_again_from_its_description(some, cameras):
    arch, _, model = some
    model = copy.deepcopy(model)
    if cameras:
        model.learn_cameras("trunk", cameras)
        tell_apart(model)
    spec, state = model.spec(), torch.get_rng_state()
    assert spec["head"] == ("own" if arch in OWN_HEAD else "none") and spec["num_nuisance"] == 0
    rebuilt = EmbAE.from_spec(spec).eval()
    assert torch.equal(torch.get_rng_state(), state)
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.spec() == spec and rebuilt.camera_names == cameras
    x, camids = images(arch), torch.tensor([2, 0, -1])
    with torch.no_grad():
        assert torch.equal(rebuilt(x, camids), model(x, camids))


def test_an_autoencoder_can_be_added_and_changes_no_embedding(some):
    arch, _, model = some
    ours, x = copy.deepcopy(model), images(arch)
    with torch.no_grad():
        before = ours(x)
        ours.reset_nuisance(2, torch.Generator().manual_seed(0))
        assert torch.equal(ours(x), before)
        h = ours.trunk(x)
        again = ours.reconstruct(ours.f_emb(h), ours.f_nui(h, torch.tensor([0, 1, 1])))
    assert again.shape == h.shape
    rebuilt = EmbAE.from_spec(ours.spec())
    rebuilt.load_state_dict(ours.state_dict())
    assert rebuilt.f_nui.num_heads == 2 and rebuilt.head == ours.head


# --- statistics by camera -------------------------------------------------------------------


@pytest.fixture(params=[*FEW, "resnet50_fc512"])
def known(request) -> tuple[str, nn.Module, EmbAE]:
    arch, net, model = made(request.param)
    model = copy.deepcopy(model)
    model.learn_cameras("trunk", CAMERAS)
    tell_apart(model)
    return arch, net, model


def test_every_batch_norm_has_statistics_by_camera_that_of_fc_too(known):
    arch, net, model = known
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    assert len(camera_layers(model)) == norms
    of_head = [layer.cameras for layer in camera_layers(model.f_emb)]
    assert of_head == ([3] if arch in OWN_HEAD else [])


@pytest.mark.parametrize("camera", [0, -1])
def test_torchreids_network_with_a_camera_s_weights_gives_its_embeddings(known, camera):
    arch, net, model = known
    x, state = images(arch), model.torchreid_state(camera)
    theirs = load(arch, state)
    with torch.no_grad():
        expected = theirs(x)
        assert close(model(x, torch.full((3,), camera)), expected, 1e-5)
        assert close(model.of_camera(camera)(x), expected)
        assert close(net(x), expected) == (camera == -1)  # whose row is what there was
        other = model.torchreid_state(1)
    assert not close(load(arch, other)(x).detach(), expected, 1e-3)
    assert all(v.untyped_storage().nbytes() == v.numel() * v.element_size()
               for v in state.values())


def test_each_row_takes_its_own_camera(known):
    arch, _, model = known
    x, camids = images(arch), torch.tensor([2, -1, 0])
    with torch.no_grad():
        mixed = model(x, camids)
        for row, camera in enumerate(camids.tolist()):
            alone = model(x[row : row + 1], torch.tensor([camera]))
            assert close(mixed[row : row + 1], alone, 1e-5)


def test_a_training_forward_moves_the_rows_of_its_cameras(known):
    _, _, model = known
    arch = model.architecture
    before = {name: m.running_mean.clone() for name, m in model.named_modules()
              if isinstance(m, CameraNorm)}
    x, camids = images(arch, 10), torch.tensor([0] * 5 + [2] * 5)
    model.train()
    _, z = model(x, camids)
    z.sum().backward()
    for name, rows in before.items():
        now = model.get_submodule(name).running_mean
        assert (now != rows).any(1).tolist() == [True, False, True, False], name
    with pytest.raises(ValueError, match="without the cameras of its images"):
        model(x)
    again = model.network_features(x, camids)
    assert again.shape == (10, model.feature_dim)


def test_statistics_of_the_head_alone(some):
    arch, net, model = some
    ours = copy.deepcopy(model)
    if arch not in OWN_HEAD:
        with pytest.raises(ValueError, match="for 3 cameras in 0 batch norm layers"):
            ours.learn_cameras("heads", CAMERAS)
        return
    ours.learn_cameras("heads", CAMERAS)
    tell_apart(ours)
    assert len(camera_layers(ours)) == len(camera_layers(ours.f_emb)) == 1
    x = images(arch)
    with torch.no_grad(), at_cameras(ours.f_emb, torch.tensor([1])):
        expected = ours.f_emb(ours.trunk(x))
    with torch.no_grad():
        assert close(load(arch, ours.torchreid_state(1))(x), expected, 1e-5)
        assert not close(net(x), expected, 1e-3)


# --- other networks -------------------------------------------------------------------------


def test_a_network_of_timm_s_is_a_trunk_with_nothing_behind():
    model = EmbAE.of_network("mobilenetv1_x0_25").eval()
    assert (model.head, model.architecture, model.feature_dim) == ("none", "", 256)
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 16)
        assert torch.equal(model(x), model.trunk(x))
    with pytest.raises(ValueError, match=r"^a model with the trunk mobilenetv1_x0_25 .* is none"):
        model.torchreid_state()


def test_embae_s_own_head_on_a_trunk_of_torchreids_is_none_of_its_networks():
    trunk = EmbAE.of_network("torchreid:osnet_x0_25").trunk
    model = EmbAE(trunk, z_id_dim=4, z_nui_dim=4, hidden_dim=8)
    assert model.architecture == "" and model.head == "dense" and model.learned_output == "h"
    with pytest.raises(ValueError, match="EmbAE's embedding layer is none of torchreid's networks"):
        model.torchreid_state()


@pytest.mark.parametrize("arch", ["pcb_p4", "mudeep", "hacnn"])
def test_whole_networks_are_embedded_in_any_order_of_memory(arch):
    """Two of them view maps as rows; on a processor images go through in channels_last."""
    model = EmbAE.of_network(f"torchreid:{arch}").eval()
    spec = InputSpec(*model.trunk.size, (0.5,) * 3, (0.5,) * 3)
    pixels = torch.rand(4, 3, *model.trunk.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.5)
        reid = ReID(Bundle(model, spec), "cpu")
        found = reid.embed_tensor(pixels, normalize=False, tta="none")
        assert close(found, expected, 1e-5)
        last = model((pixels.contiguous(memory_format=torch.channels_last) - 0.5) / 0.5)
        assert close(last, expected, 1e-5)


def test_hacnn_computes_where_its_images_are():
    """It has a switch that must agree with their device, or its own coordinates lie elsewhere."""
    model = made("hacnn")[2]
    x = images("hacnn")
    with torch.no_grad():
        expected = model(x)
        model.trunk.net.use_gpu = True
        assert torch.equal(model(x), expected)
        if torch.cuda.is_available():
            moved = copy.deepcopy(model).cuda()
            assert close(moved(x.cuda()).cpu(), expected, 1e-2)
            assert torch.equal(model(x), expected)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match=r"unknown torchreid model 'resnet51'; available: .*osnet"):
        EmbAE.of_network("torchreid:resnet51")
    with pytest.raises(ValueError, match="resnet51"):
        EmbAE.of_network("resnet51")
    spec = EmbAE.of_network("torchreid:mobilenetv2_x1_0").spec()
    with pytest.raises(ValueError, match="mobilenetv2_x1_0 has no embedding layer of its own"):
        EmbAE.from_spec({**spec, "head": "own"})
