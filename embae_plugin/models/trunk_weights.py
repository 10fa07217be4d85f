"""Weights for trunks: TF-slim's names, and checking that they fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from embae_plugin.models.weight_files import State, misfit, shapes_of

_SLIM_KEY = re.compile(r"features\.(\d+)\.([0134])\.(\w+)")
_PLACES = [f"{s}.{b}" for s, blocks in enumerate((1, 2, 2, 6, 2)) for b in range(blocks)]
_LAYERS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}


def is_tf_slim(state: State) -> bool:
    """Whether these are names of the MobileNet V1 converted from TF-slim.

    There ``features.0`` is the stem and ``features.1`` to ``features.13`` are depthwise
    convolution (0), batch norm (1), pointwise convolution (3) and batch norm (4).
    """
    return "features.0.0.weight" in state and "features.1.3.weight" in state


def from_tf_slim(state: State) -> State:
    """TF-slim's names turned into those of timm's MobileNet V1; others are left alone."""

    def renamed(key: str) -> str:
        match = _SLIM_KEY.fullmatch(key)
        if match is None or (number := int(match[1])) > len(_PLACES):
            return key
        if not number:
            return f"{'conv_stem' if match[2] == '0' else 'bn1'}.{match[3]}"
        return f"blocks.{_PLACES[number - 1]}.{_LAYERS[match[2]]}.{match[3]}"

    return {renamed(key): value for key, value in state.items()}


def load_exactly(
    net: nn.Module, state: State, behind: Sequence[str], trunk: str, path: str | Path
) -> None:
    """Loads ``state`` into ``net``, all of it but what is behind the pooling.

    Args:
        behind: names of layers behind the pooling, whose weights may be left over.
        trunk, path: its name and the file's, for the message.

    Raises:
        ValueError: the weights are another network's; says what does not fit.
    """
    own = net.state_dict()
    ignored = tuple(f"{layer}." for layer in behind)
    kept = {k: v for k, v in state.items() if k in own or not k.startswith(ignored)}
    problems = misfit(shapes_of(own), shapes_of(kept))
    if problems:
        raise ValueError(
            f"the weights in {path} do not fit the trunk '{trunk}': {problems}. Choose "
            "the trunk they belong to with embae.trunk, or another file with embae.trunk_weights"
        )
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
