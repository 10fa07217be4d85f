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

from embae_plugin.models.activated_conv import ACTIVATIONS, ActivatedConv, can_activate
from embae_plugin.precision import full_precision

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


def inference_format(device: torch.device) -> torch.memory_format:
    """The memory order in which float32 images go through a network that isn't trained.

    channels_last is the faster one on a processor. On a GPU it gains nothing in float32, and
    cuDNN builds kernels anew for each size of a batch, which takes seconds.
    """
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


class _InFormat(nn.Module):
    """A network that brings its images into an order first."""

    def __init__(self, net: nn.Module, order: torch.memory_format) -> None:
        super().__init__()
        self.net, self._order = net.to(memory_format=order), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network makes of (B, 3, H, W)."""
        return cast(torch.Tensor, self.net(x.contiguous(memory_format=self._order)))


def fuse_for_inference(trunk: Trunk, device: torch.device | None = None) -> nn.Module:
    """An eval-mode copy, on a processor with batch norms and ReLUs folded into the convolutions.

    (B, 3, H, W) to the same (B, trunk.feature_dim), up to rounding. Which layer follows which
    convolution is observed on an image, so any network will do; where folding changes the
    features, it is left out. Run it without gradients: with them a ReLU is a layer again.

    On a GPU nothing is folded: there it saves a tenth of the time, and takes longer than the
    features of some thousand images.

    Args:
        trunk: is left as it is.
        device: of the copy; the trunk's own if None.
    """
    plain = copy.deepcopy(trunk).eval().requires_grad_(False)
    plain = plain if device is None else plain.to(device)
    weight = next(plain.parameters())
    if weight.device.type == "cuda":
        return _InFormat(plain, inference_format(weight.device))
    plain = plain.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 256, 128, generator=generator).to(weight.device, weight.dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), full_precision(weight.device):
        expected = plain(image)
        folded = _keep_if_equal("batch norm", plain, _fold_norms(plain, image), image, expected)
        activated = _fold_activations(folded, image)
        return _keep_if_equal("activations", folded, activated, image, expected)


def _keep_if_equal(
    what: str, before: nn.Module, after: nn.Module, image: torch.Tensor, expected: torch.Tensor
) -> nn.Module:
    """``after`` if it makes the expected features, else ``before``."""
    try:
        error = float((after(image) - expected).abs().max() / expected.abs().max().clamp(1e-12))
    except RuntimeError as reason:  # the fused operation is not part of torch's public interface
        logger.info("folding %s is left out: %s", what, reason)
        return before
    if not error <= _TOLERANCE:
        logger.info("folding %s changes features by %.1g and is left out", what, error)
        return before
    return after


def _fold_norms(plain: nn.Module, image: torch.Tensor) -> nn.Module:
    """A copy in which convolutions include the batch norms that take just their output."""
    folded = copy.deepcopy(plain)
    for conv_name, bn_name in _pairs(plain, image, (_BatchNorm,)):
        _fold(folded, conv_name, bn_name)
    return folded.to(memory_format=torch.channels_last)


def _fold_activations(folded: nn.Module, image: torch.Tensor) -> nn.Module:
    """A copy, of the same weights, in which convolutions apply the ReLUs behind them."""
    shared = {id(value): value for value in folded.parameters()}
    activated = copy.deepcopy(folded, shared)
    for conv_name, relu_name in _pairs(folded, image, ACTIVATIONS):
        conv, relu = activated.get_submodule(conv_name), activated.get_submodule(relu_name)
        if can_activate(conv):
            activated.set_submodule(conv_name, ActivatedConv(cast(nn.Conv2d, conv), relu))
            activated.set_submodule(relu_name, nn.Identity())
    return activated


def _pairs(
    net: nn.Module, image: torch.Tensor, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[str, str]]:
    """Names of convolutions and of the layers of these kinds that take just their output."""
    # Outputs as they left the convolution: ``x += shortcut`` changes one that keeps its id. The
    # outputs themselves are kept alive, so that no two share an id.
    made_by: dict[int, tuple[str, torch.Tensor, torch.Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def made(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            made_by[id(output)] = (name, output, output.clone())

        return hook

    def taken(name: str) -> Any:  # before the layer, which may work in place
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            conv, _, value = made_by.get(id(inputs[0]), ("", None, None))
            if value is not None and torch.equal(value, inputs[0]):
                pairs.append((conv, name))

        return hook

    handles = [
        module.register_forward_hook(made(name))
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(taken(name))
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, kinds))
    ]
    try:
        net(image)
    finally:
        for handle in handles:
            handle.remove()
    convs = [conv for conv, _ in pairs]
    return [(c, b) for c, b in pairs if calls[c] == calls[b] == convs.count(c) == 1]


def _fold(net: nn.Module, conv_name: str, bn_name: str) -> None:
    """Replaces the convolution by one that includes the batch norm, and keeps the activation."""
    conv = cast(nn.Conv2d, net.get_submodule(conv_name))
    bn = cast(nn.BatchNorm2d, net.get_submodule(bn_name))
    net.set_submodule(conv_name, fuse_conv_bn_eval(conv, bn))
    # timm's batch norm layers apply the activation themselves.
    net.set_submodule(bn_name, getattr(bn, "act", nn.Identity()))
