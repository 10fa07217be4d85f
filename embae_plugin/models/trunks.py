"""Trunks: networks whose globally average-pooled features everything else builds on."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import torch
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models import timm_nets, zoo
from embae_plugin.models.input_spec import Triple
from embae_plugin.models.recognition import recognise
from embae_plugin.models.weight_files import load_exactly, read_state

logger = logging.getLogger(__name__)

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std
_TORCHREID = "torchreid:"
_NARROW = {"mobilenetv1_x0_5": 0.5, "mobilenetv1_x0_25": 0.25}


class Trunk(nn.Module):
    """A network ending at its global average pooling: (B, 3, H, W) to (B, ``feature_dim``).

    Args:
        name: under which :func:`build_trunk` builds it again.
        net: the network.
        feature_dim: width of its features.
        norm_mean, norm_std: what its weights expect images in [0, 1] to be normalised by.
        weights: where the weights come from, in words.
        size: (height, width) in pixels that its weights expect, if that is known.
        evaluated: the feature comes out of ``net`` only while its own flag ``training`` is off,
            which it then always is; the layers in it have theirs.

    Attributes are those arguments.
    """

    def __init__(
        self, name: str, net: nn.Module, feature_dim: int, norm_mean: Triple, norm_std: Triple,
        weights: str = "random", size: tuple[int, int] | None = None, evaluated: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.net, self.feature_dim = name, net, feature_dim
        self.norm_mean, self.norm_std, self.weights = norm_mean, norm_std, weights
        self.size, self.evaluated = size, evaluated
        self.train(self.training)

    def train(self, mode: bool = True) -> Trunk:
        """Sets the mode of all layers."""
        super().train(mode)
        if self.evaluated:
            self.net.training = False
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features."""
        return cast(torch.Tensor, self.net(x))


def build_trunk(name: str, weights: str = "", generator: torch.Generator | None = None) -> Trunk:
    """Builds a trunk.

    Args:
        name: ``mobilenetv1`` (the paper's; timm's ``mobilenetv1_100``), ``mobilenetv1_tf`` (the
            same in TF-slim's arrangement: SAME padding, batch norm epsilon 1e-3),
            ``mobilenetv1_x0_5`` and ``mobilenetv1_x0_25`` (narrow), ``torchreid:NAME`` (a model of
            torchreid's zoo) or a name of timm's.
        weights: ``""`` for random ones, ``imagenet`` for those that timm or torchreid publish,
            fetched on first use, a file of weights for this network, or ``torchreid:ARCH/DATA``
            (see :func:`zoo.fetch`). A file in TF-slim's arrangement given for ``mobilenetv1``
            makes it ``mobilenetv1_tf``.
        generator: of random weights; None for torch's global one.

    Raises:
        ValueError: an unknown name, a network without one pooled feature vector, or weights of
            another network.
        FileNotFoundError: weights that are not there, or cannot be fetched.
    """
    if weights.startswith(_TORCHREID):
        weights = str(zoo.fetch(weights))
    try:
        state = None if weights in ("", "imagenet") else read_state(weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; embae.trunk_weights is a weight file, 'imagenet' or empty for random weights"
        ) from None
    if name == "mobilenetv1" and state is not None and timm_nets.is_tf_slim(state):
        logger.info("%s is in TF-slim's arrangement: the trunk is mobilenetv1_tf", weights)
        name = "mobilenetv1_tf"
    with _drawing_from(generator):
        of_torchreid = name.startswith(_TORCHREID)
        trunk = (_torchreid_trunk if of_torchreid else _timm_trunk)(name, weights == "imagenet")
    if state is not None:
        state = timm_nets.from_tf_slim(state) if name == "mobilenetv1_tf" else state
        behind = ("classifier", "fc") if of_torchreid else timm_nets.classifier_names(trunk.net)
        try:
            load_exactly(trunk.net, state, behind, name, weights)
        except ValueError as error:
            advice = ""
            with suppress(ValueError):
                theirs = recognise(state, file_name=weights)
                advice = f". They are those of embae.trunk torchreid:{theirs}"
            raise ValueError(f"{error}{advice}") from None
        trunk.weights = str(weights)
    level = logging.INFO if weights else logging.DEBUG  # random ones are mostly loaded over
    logger.log(level, "trunk %s, %d features, weights: %s", name, trunk.feature_dim, trunk.weights)
    return trunk


def build_network(
    name: str, generator: torch.Generator | None = None
) -> tuple[Trunk, nn.Sequential | None]:
    """A Re-ID network as it is, with random weights: its trunk, and its own embedding layer.

    Args:
        name: as for :func:`build_trunk`; any network of torchreid's that gives one feature vector.
        generator: of the weights; None for torch's global one.

    Returns:
        the trunk, up to the pooled features, and the layer behind it that makes the evaluation
        feature of them, or None where they are that feature.

    Raises:
        ValueError: an unknown name, or a network that gives no single feature vector.
    """
    if not name.startswith(_TORCHREID):
        return build_trunk(name, generator=generator), None
    with _drawing_from(generator):
        parts = bridge.network_parts(name.removeprefix(_TORCHREID))
    trunk = Trunk(name, parts.net, parts.width, *IMAGENET, size=parts.size,
                  evaluated=parts.evaluated)
    return trunk, parts.fc


@contextmanager
def _drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Seeds torch's global generator from ``generator``, and puts its state back afterwards.

    timm's and torchreid's networks draw their initial weights from the global one only.
    """
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


def _torchreid_trunk(name: str, pretrained: bool) -> Trunk:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20.0)  # torchreid's downloads set none, and would wait for ever
    try:
        net = bridge.pooled_trunk(name.removeprefix(_TORCHREID), pretrained)
    finally:
        socket.setdefaulttimeout(before)
    weights = "ImageNet, as torchreid publishes them" if pretrained else "random"
    return Trunk(name, net, cast(int, net.feature_dim), *IMAGENET, weights)


def _timm_trunk(name: str, pretrained: bool) -> Trunk:
    weights = "random"
    if name in _NARROW:
        if pretrained:
            raise ValueError(f"nobody publishes ImageNet weights for {name}; set "
                             "embae.trunk_weights to '' for random weights, or choose embae.trunk "
                             "mobilenetv1")
        net = timm_nets.narrow_mobilenetv1(_NARROW[name])
    elif name == "mobilenetv1_tf":
        if pretrained:
            raise ValueError("timm's ImageNet weights are not for mobilenetv1_tf, whose padding "
                             "differs: choose embae.trunk mobilenetv1, or give a TF-slim weight "
                             "file with embae.trunk_weights")
        net = timm_nets.timm_net("mobilenetv1_100", pad_type="same", bn_eps=1e-3)
    else:
        timm_name = "mobilenetv1_100" if name == "mobilenetv1" else name
        net, options = timm_nets.timm_net(timm_name), {}
        if timm_nets.pooled_width(net) is None:
            # Transformers of a fixed input size; the option exists where they can do without.
            options = {"dynamic_img_size": True}
            net = timm_nets.timm_net(timm_name, **options)
        if pretrained:
            net, source = timm_nets.imagenet_timm_net(timm_name, **options)
            weights = f"ImageNet, {source}"
    width = timm_nets.pooled_width(net)
    if width is None:
        raise ValueError(f"'{name}' does not turn a 256 x 128 image into one pooled feature vector "
                         "and cannot serve as a trunk")
    return Trunk(name, net, width, *timm_nets.expected_inputs(net), weights)
