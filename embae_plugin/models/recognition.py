"""Tells which of torchreid's architectures weights belong to, by their names and shapes.

Each architecture is built once on the meta device, where a tensor has a shape and no numbers: no
table of networks is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models.weight_files import Shapes, few, misfit, shapes_of
from embae_plugin.suggestions import did_you_mean

# torchreid's classifiers; those of torchvision's ImageNet files and of Cadene's, which fit, too.
_CLASSIFIER = re.compile(r"classifier.*|(fc|last_linear)\.(weight|bias)")
_NEAREST = 3


def recognise(state: Mapping[str, torch.Tensor], arch: str = "", file_name: str = "") -> str:
    """The torchreid architecture whose weights these are.

    Every weight in front of the classifier must be there, with the same shape, and no other. The
    classifier may be anyone's or missing.

    Args:
        state: bare weights by name, as :func:`embae_plugin.models.weight_files.read_state` returns.
        arch: the architecture, if the caller knows it: it is then checked, not guessed.
        file_name: name or path of the file. It decides between architectures that differ in
            neither names nor shapes, and is put before the message of an error.

    Raises:
        ValueError: ``arch`` is unknown, or not that of these weights (says what does not fit);
            no architecture fits (says what was seen and which are nearest), or several fit alike.
    """
    shapes = shapes_of(state)
    body = _without_classifier(shapes)
    said = f"{file_name}: " if file_name else ""
    if not body:
        raise ValueError(
            f"{said}a classifier alone ({', '.join(shapes) or 'nothing'}), without the network"
        )
    if arch:
        if arch not in (names := bridge.own_models()):
            hint = did_you_mean(arch, names, _NEAREST) or f" It has {', '.join(names)}."
            raise ValueError(f"{said}torchreid has no model '{arch}'.{hint}")
        if problems := misfit(_body(arch), body):
            raise ValueError(f"{said}these weights are not those of {arch}: {problems}")
        return arch
    hinted = _hinted(file_name)
    if hinted and _shapes(hinted).keys() == shapes.keys() and _body(hinted) == body:
        return hinted  # nothing else need be built
    fitting = [name for name in bridge.own_models() if _body(name) == body]
    fitting = [one for one in fitting if _shapes(one).keys() == shapes.keys()] or fitting
    fitting = [hinted] if hinted in fitting else fitting
    if not fitting:
        raise ValueError(said + _unknown(body))
    if len(fitting) > 1:
        raise ValueError(
            f"{said}these weights fit {' and '.join(fitting)} alike: name the architecture (arch)"
        )
    return fitting[0]


class _Unfilled(TorchFunctionMode):
    """Leaves out the initialisation, which takes longer than all the rest on the meta device."""

    _FILLS = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_,
                        torch.Tensor.zero_, nn.init.kaiming_uniform_, nn.init.uniform_,
                        nn.init.normal_, nn.init.constant_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@cache
def _shapes(arch: str) -> Shapes:
    with torch.device("meta"), _Unfilled(), bridge.quiet():
        net = bridge.build_model(arch, 1, loss="softmax", pretrained=False, use_gpu=False)
    return shapes_of(net.state_dict())


@cache
def _body(arch: str) -> Shapes:
    return _without_classifier(_shapes(arch))


def _without_classifier(shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not _CLASSIFIER.fullmatch(key)}


def _hinted(file_name: str) -> str:
    """The longest name of an architecture in a file's name, or else in the nearest folder's."""
    for part in reversed(PurePath(file_name).parts):
        named = [name for name in bridge.own_models() if name in part]
        if named:
            return max(named, key=len)
    return ""


def _unknown(body: Shapes) -> str:
    """What was seen instead of a network of torchreid's."""
    fits = {name: len(_body(name).items() & body.items()) for name in bridge.own_models()}
    nearest = sorted(fits, key=lambda name: fits[name] / len(_body(name)), reverse=True)
    first = few((f"{key} {shape}" for key, shape in body.items()), _NEAREST)
    seen = f"{len(body)} tensors ({first}) that are not the weights of a network of torchreid's"
    if not fits[nearest[0]]:
        return f"{seen}: not one fits any of them. Is it a detector, or another library's network?"
    best = nearest[0]
    shown = ", ".join(f"{one} ({fits[one]} of {len(_body(one))} fit)" for one in nearest[:_NEAREST])
    return f"{seen}. Nearest: {shown}; for {best}, {misfit(_body(best), body)}"
