"""A trunk that is no longer trained: faster, and with a name for its weights."""

from __future__ import annotations

import copy
import hashlib
import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from embae_plugin.models.trunks import Trunk

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4  # of a folded trunk's features, relative to their largest


def trunk_fingerprint(trunk: Trunk) -> str:
    """16 hexadecimal digits that name what the trunk computes: its kind, its inputs, its weights.

    Two trunks of one fingerprint give the same features; used to key stored features.
    """
    digest = hashlib.sha256(repr((trunk.name, trunk.norm_mean, trunk.norm_std)).encode())
    for name, value in trunk.state_dict().items():
        if name.endswith("num_batches_tracked"):  # counts training, changes no feature
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(raw.numpy()))
    return digest.hexdigest()[:16]


def fuse_for_inference(trunk: Trunk) -> nn.Module:
    """An eval-mode, channels_last copy with each batch norm folded into its convolution.

    (B, 3, H, W) to the same (B, trunk.feature_dim), up to rounding. Which batch norm follows
    which convolution is observed on an image, so any network will do; where folding changes the
    features, the plain copy is returned.
    """
    plain = copy.deepcopy(trunk).eval().requires_grad_(False)
    plain = plain.to(memory_format=torch.channels_last)
    weight = next(plain.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 256, 128, generator=generator).to(weight.device, weight.dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        pairs, expected = _conv_bn_pairs(plain, image)
    folded = copy.deepcopy(plain)
    for conv_name, bn_name in pairs:
        _fold(folded, conv_name, bn_name)
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        error = float((folded(image) - expected).abs().max() / expected.abs().max().clamp(1e-12))
    if not error <= _TOLERANCE:
        logger.info(
            "trunk %s: folding batch norm changes features by %.1g, left out", trunk.name, error
        )
        return plain
    logger.debug("trunk %s: %d batch norms folded, error %.1g", trunk.name, len(pairs), error)
    return folded.to(memory_format=torch.channels_last)


def _conv_bn_pairs(net: nn.Module, image: torch.Tensor) -> tuple[list[tuple[str, str]], Any]:
    """Names of convolutions and of the batch norms that take just their output; ``net(image)``."""
    made_by: dict[int, str] = {}
    kept: list[torch.Tensor] = []  # alive, so that no two outputs share an id
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                made_by[id(output)] = name
                kept.append(output)
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])], name))

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, _BatchNorm))
    ]
    try:
        features = net(image)
    finally:
        for handle in handles:
            handle.remove()
    convs = [conv for conv, _ in pairs]
    once = [(c, b) for c, b in pairs if calls[c] == calls[b] == convs.count(c) == 1]
    return once, features


def _fold(net: nn.Module, conv_name: str, bn_name: str) -> None:
    """Replaces the convolution by one that includes the batch norm, and keeps the activation."""
    conv = cast(nn.Conv2d, net.get_submodule(conv_name))
    bn = cast(nn.BatchNorm2d, net.get_submodule(bn_name))
    net.set_submodule(conv_name, fuse_conv_bn_eval(conv, bn))
    # timm's batch norm layers apply the activation themselves.
    net.set_submodule(bn_name, getattr(bn, "act", nn.Identity()))
