"""Makes a model of torchreid's zoo end at its global average pooling."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


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
