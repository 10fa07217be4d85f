"""Takes models of torchreid's zoo apart: up to the pooling, and what embeds behind it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

SIZES = ((256, 128), (160, 64))  # the zoo's inputs: (height, width); the second is HACNN's


class NetworkParts(NamedTuple):
    """A model of the zoo in two parts; one behind the other gives its evaluation feature.

    Attributes:
        net: (B, 3, H, W) to (B, ``width``).
        fc: the embedding layer behind the pooling (linear, batch norm, ReLU), or None.
        width: of what ``net`` returns.
        size: (height, width) in pixels that it takes.
        evaluated: ``net`` is the whole model, whose feature comes out only while its own flag
            ``training`` is off.
    """

    net: nn.Module
    fc: nn.Sequential | None
    width: int
    size: tuple[int, int]
    evaluated: bool


def network_parts(name: str, build_model: Callable[..., Any]) -> NetworkParts:
    """torchreid's model ``name`` with random weights, taken apart.

    A model whose embedding layer cannot be told from the rest stays whole. State-dict keys are
    torchreid's, less ``classifier…``, those of ``fc`` less their ``fc.``.

    Args:
        name: of the model.
        build_model: torchreid's.

    Raises:
        ValueError: what it returns is no single feature vector.
    """
    model = _build(name, build_model, pretrained=False)
    fc, own = getattr(model, "fc", None), _feature(model)
    if own is None:
        raise ValueError(f"torchreid's '{name}' returns no single feature vector")
    feature, size = own
    width = _strip_to_pooling(model)
    if width is not None and isinstance(fc, nn.Sequential | None):
        again = _feature(model)
        pooled = None if again is None else again[0]
        with torch.no_grad():
            behind = pooled if fc is None or pooled is None else fc.eval()(pooled)
        if behind is not None and behind.shape == feature.shape and torch.equal(behind, feature):
            return NetworkParts(model, fc, width, size, evaluated=False)
    whole = _build(name, build_model, pretrained=False)
    for part in [part for part, _ in whole.named_children() if part.startswith("classifier")]:
        setattr(whole, part, nn.Identity())
    if hasattr(whole, "use_gpu"):
        whole.register_forward_pre_hook(_follow_images)
    for part in whole.children():
        part.register_forward_hook(_in_plain_order)
    return NetworkParts(whole, None, feature.shape[1], size, evaluated=True)


def _follow_images(net: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """HACNN makes coordinates on the processor, and moves them by a switch of its constructor."""
    net.use_gpu = inputs[0].is_cuda


def _in_plain_order(_: Any, inputs: Any, output: Any) -> Any:
    """PCB and MuDeep view their maps as rows, which no map in channels_last order can be."""
    return output.contiguous() if isinstance(output, torch.Tensor) else output


def _feature(model: Any) -> tuple[torch.Tensor, tuple[int, int]] | None:
    """What the model makes of an image in eval mode, (1, D), and the image's size."""
    training = model.training
    try:
        for size in SIZES:
            image = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(1, 3, *size)
            try:
                with torch.no_grad():
                    feature = model.eval()(image)
            except (TypeError, AssertionError, RuntimeError, ValueError):
                continue
            if isinstance(feature, torch.Tensor) and feature.ndim == 2:
                return feature, size
        return None
    finally:
        model.train(training)


def pooled_trunk(name: str, build_model: Callable[..., Any], pretrained: bool) -> nn.Module:
    """torchreid's model ``name``, mapping (B, 3, H, W) to pooled features (B, ``feature_dim``).

    The classifier becomes the identity, and a bottleneck behind the pooling (OSNet's ``fc``) is
    dropped: under torchreid's "softmax" the model then returns the pooled features in training and
    evaluation alike.

    Args:
        name: of the model.
        build_model: torchreid's.
        pretrained: load torchreid's ImageNet weights, fetched on first use.

    Raises:
        ValueError: a model without a single pooled feature (PCB, HACNN, MuDeep).
        FileNotFoundError: ``pretrained``, and the weights cannot be fetched.
    """
    model = _build(name, build_model, pretrained)
    width = _strip_to_pooling(model)
    if width is None:
        raise ValueError(
            f"torchreid's '{name}' has no single pooled feature vector and cannot serve as a "
            "trunk; use e.g. mobilenetv2_x1_0, resnet50 or osnet_x1_0"
        )
    model.feature_dim = width
    return model  # type: ignore[no-any-return]


def _build(name: str, build_model: Callable[..., Any], pretrained: bool) -> Any:
    model, reason = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = build_model(name, 1, loss="softmax", pretrained=pretrained, use_gpu=False)
        except Exception as error:  # whatever gdown, urllib or torch.load make of a failed fetch
            if not pretrained:
                raise
            reason = str(error)
    # Where its link has moved, torchreid warns and returns random weights.
    for warning in caught:
        if "manually" in str(warning.message):
            reason = reason or str(warning.message)
    if pretrained and reason is not None:
        raise FileNotFoundError(
            f"the ImageNet weights of torchreid's '{name}' could not be fetched ({reason}); fetch "
            "the file yourself, by hand or on a machine with network access, and name it in "
            "embae.trunk_weights"
        )
    return model


def _strip_to_pooling(model: Any) -> int | None:
    """Drop everything behind the pooling; the width of what is left, None if it is no vector."""
    if not isinstance(getattr(model, "classifier", None), nn.Linear):
        return None
    model.classifier, model.fc = nn.Identity(), None
    training = model.training
    try:
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, 3, 256, 128))
    except (TypeError, AssertionError):  # MuDeep's fc flattens; HACNN takes 160 x 64 only
        return None
    model.train(training)
    is_vector = isinstance(features, torch.Tensor) and features.ndim == 2
    return int(features.shape[1]) if is_vector else None
