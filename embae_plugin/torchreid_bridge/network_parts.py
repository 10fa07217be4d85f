"""Takes models of torchreid's zoo apart: up to the pooling, and what embeds behind it."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from embae_plugin.torchreid_bridge.library import models, quiet
from embae_plugin.torchreid_bridge.registries import model_table

SIZES = ((256, 128), (160, 64))  # the zoo's inputs: (height, width); the second is HACNN's


class NetworkParts(NamedTuple):
    """A model of the zoo in two parts; one behind the other gives its evaluation feature."""

    net: nn.Module  # (B, 3, H, W) to (B, width)
    fc: nn.Sequential | None  # the embedding layer behind the pooling (linear, batch norm, ReLU)
    width: int
    size: tuple[int, int]  # (height, width) in pixels that it takes
    evaluated: bool  # net is whole; its feature comes out only while its flag "training" is off


def own_models() -> list[str]:
    """Names of the models that torchreid itself brings."""
    return sorted(n for n, f in model_table().items() if f.__module__.startswith("torchreid."))


def network_parts(name: str) -> NetworkParts:
    """A model of torchreid's zoo with random weights, taken apart.

    A model whose embedding layer cannot be told from the rest stays whole. State-dict keys are
    torchreid's, less ``classifier…``, those of ``fc`` less their ``fc.``.

    Raises:
        ValueError: no such model, or what it returns is no single feature vector.
    """
    model = _build(name)
    fc, own = getattr(model, "fc", None), feature_of(model, *SIZES)
    if own is None:
        raise ValueError(f"torchreid's '{name}' returns no single feature vector")
    (feature, size), pooled = own, _strip_to_pooling(model)
    if pooled is not None and isinstance(fc, nn.Sequential | None):
        with torch.no_grad():
            behind = pooled if fc is None else fc.eval()(pooled)
        if behind.shape == feature.shape and torch.equal(behind, feature):
            return NetworkParts(model, fc, pooled.shape[1], size, evaluated=False)
    whole = _build(name)
    for part, child in list(whole.named_children()):
        if part.startswith("classifier"):
            setattr(whole, part, nn.Identity())
        else:
            child.register_forward_hook(_in_plain_order)
    if hasattr(whole, "use_gpu"):
        whole.register_forward_pre_hook(_follow_images)
    return NetworkParts(whole, None, feature.shape[1], size, evaluated=True)


def _follow_images(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """HACNN makes coordinates on the processor, and moves them by a switch of its constructor."""
    vars(net)["use_gpu"] = inputs[0].is_cuda


def _in_plain_order(_: nn.Module, inputs: object, output: object) -> object:
    """PCB and MuDeep view their maps as rows, which no map in channels_last order can be."""
    return output.contiguous() if isinstance(output, torch.Tensor) else output


def feature_of(
    net: nn.Module, *sizes: tuple[int, int]
) -> tuple[torch.Tensor, tuple[int, int]] | None:
    """What a network makes of an image in eval mode, (1, D), and the image's (height, width).

    That is the first of ``sizes`` of which it makes a vector; None where it makes none of any.
    """
    training = net.training
    net.eval()
    try:
        for height, width in sizes:
            image = torch.linspace(-1, 1, 3 * height * width).view(1, 3, height, width)
            try:
                with torch.no_grad():
                    feature = net(image)
            except (TypeError, AssertionError, RuntimeError, ValueError):  # of a fixed other size
                continue
            if isinstance(feature, torch.Tensor) and feature.ndim == 2:
                return feature, (height, width)
        return None
    finally:
        net.train(training)


def pooled_trunk(name: str, pretrained: bool) -> nn.Module:
    """A model of torchreid's zoo whose output is its globally average-pooled features.

    The classifier becomes the identity, and a bottleneck behind the pooling (OSNet's ``fc``) is
    dropped: under torchreid's "softmax" the model then maps (B, 3, H, W) to (B, ``feature_dim``)
    in training and evaluation alike. State-dict keys stay torchreid's. ``pretrained`` loads
    torchreid's ImageNet weights, fetched on first use.

    Raises:
        ValueError: no such model, or one without a single pooled feature (PCB, HACNN, MuDeep).
        FileNotFoundError: ``pretrained``, and the weights cannot be fetched.
    """
    model = _build(name, pretrained)
    pooled = _strip_to_pooling(model)
    if pooled is None:
        raise ValueError(
            f"torchreid's '{name}' has no single pooled feature vector and cannot serve as a "
            "trunk; use e.g. mobilenetv2_x1_0, resnet50 or osnet_x1_0"
        )
    model.feature_dim = pooled.shape[1]
    return cast(nn.Module, model)


def _build(name: str, pretrained: bool = False) -> Any:
    """torchreid's model; its ``build_model`` warns of a moved link, and returns random weights."""
    if name not in (own := own_models()):
        raise ValueError(f"unknown torchreid model '{name}'; available: {', '.join(own)}")
    with quiet(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = models.build_model(name, 1, pretrained=pretrained, use_gpu=False)
            told = (str(warning.message) for warning in caught)
            reason = next((text for text in told if "manually" in text), "")
        except Exception as error:  # whatever gdown, urllib or torch.load make of a failed fetch
            if not pretrained:
                raise
            reason = str(error) or type(error).__name__
    if pretrained and reason:
        raise FileNotFoundError(
            f"the ImageNet weights of torchreid's '{name}' could not be fetched ({reason}); fetch "
            "the file yourself, by hand or on a machine with network access, and name it in "
            "embae.trunk_weights"
        )
    return model


def _strip_to_pooling(model: Any) -> torch.Tensor | None:
    """Drops all behind the pooling; returns the feature of an image, None if it is no vector."""
    if not isinstance(getattr(model, "classifier", None), nn.Linear):
        return None
    model.classifier, model.fc = nn.Identity(), None
    pooled = feature_of(model, SIZES[0])
    return None if pooled is None else pooled[0]
