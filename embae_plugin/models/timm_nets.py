"""Networks of timm, as trunks: architecture, what inputs they expect, ImageNet weights."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, cast

import huggingface_hub
import timm
from huggingface_hub.errors import EntryNotFoundError
from timm.models import EfficientNet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.models.input_spec import Triple
from embae_plugin.models.weight_files import State
from embae_plugin.suggestions import did_you_mean

# Names of TF-slim's MobileNet V1, converted, and what timm calls its blocks and layers.
_SLIM_KEY = re.compile(r"features\.(\d+)\.([0134])\.(\w+)")
_PLACES = [f"{s}.{b}" for s, blocks in enumerate((1, 2, 2, 6, 2)) for b in range(blocks)]
_LAYERS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}


def timm_net(name: str, **options: Any) -> nn.Module:
    """timm's network ``name`` with random weights, ending at its global average pooling.

    Args:
        name: as timm lists it, with or without the tag of its weights.
        options: further arguments of ``timm.create_model``.

    Raises:
        ValueError: timm has no such network, or it has no average pooling at its end.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), most=3)
        raise ValueError(
            f"unknown trunk '{name}'.{hint} A trunk is mobilenetv1, mobilenetv1_tf, "
            "mobilenetv1_x0_5, mobilenetv1_x0_25, a network of timm, or torchreid:NAME for one of "
            "torchreid's"
        )
    try:
        return timm.create_model(name, num_classes=0, global_pool="avg", **options)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"timm's '{name}' cannot serve as a trunk: {error}") from error


def imagenet_timm_net(name: str, **options: Any) -> tuple[nn.Module, str]:
    """As :func:`timm_net`, with the weights timm publishes, fetched on first use, and their name.

    Raises:
        FileNotFoundError: the weights cannot be fetched.
        ValueError: there are none.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no weights for '{name}'; give a file with embae.trunk_weights, "
                         "or leave it empty for random weights")
    source = str(config.hf_hub_id or config.url)
    filename = config.hf_hub_filename or "model.safetensors"
    try:
        if config.hf_hub_id:
            _reach_hub(config.hf_hub_id, filename)
        net = timm.create_model(name, True, num_classes=0, global_pool="avg", **options)
        return net, source
    except Exception as error:  # the hub's client, its HTTP library and timm each have their own
        where = f"{filename} of {source} on the Hugging Face hub" if config.hf_hub_id else source
        raise FileNotFoundError(f"the ImageNet weights of '{name}', {where}, could not be fetched "
                                f"({type(error).__name__}: {error}). Download the file elsewhere "
                                "and pass its path: embae.trunk_weights /path/to/file") from error


def narrow_mobilenetv1(multiplier: float) -> nn.Module:
    """timm's MobileNet V1 with every layer's width times ``multiplier`` (Howard et al., 2017)."""
    stages = ("r1_k3_s1_c64", "r2_k3_s2_c128", "r2_k3_s2_c256", "r6_k3_s2_c512", "r2_k3_s2_c1024")
    return EfficientNet(
        decode_arch_def([[f"dsa_{stage}"] for stage in stages]),  # type: ignore[no-untyped-call]
        num_classes=0,
        num_features=0,
        round_chs_fn=partial(round_channels, multiplier=multiplier),
        norm_layer=nn.BatchNorm2d,
        act_layer=nn.ReLU6,
    )


def _reach_hub(repository: str, filename: str) -> None:
    """Asks the hub for a file once, unless it is in the cache.

    timm's own attempts take most of a minute to give up on a machine without network.
    """
    repository, _, tag = repository.partition("@")
    revision = tag or None
    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    if isinstance(cached, str):
        return
    url = huggingface_hub.hf_hub_url(repository, filename, revision=revision)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=10.0)
    except EntryNotFoundError:
        return  # reached: older repositories hold pytorch_model.bin, which timm tries next


def _config(net: nn.Module) -> dict[str, Any]:
    """What timm says of a network's weights."""
    return getattr(net, "pretrained_cfg", None) or {}


def expected_inputs(net: nn.Module) -> tuple[Triple, Triple]:
    """Mean and standard deviation, for inputs in [0, 1], that timm's weights expect."""
    mean, std = (tuple(_config(net).get(key, (0.5,) * 3)) for key in ("mean", "std"))
    return cast(Triple, mean), cast(Triple, std)


def classifier_names(net: nn.Module) -> tuple[str, ...]:
    """Names of the layers behind the pooling, which a trunk leaves out."""
    names = _config(net).get("classifier") or "classifier"
    return (names,) if isinstance(names, str) else tuple(names)


def pooled_width(net: nn.Module) -> int | None:
    """Width of the features of a 256 x 128 image, None where the network does not take one."""
    found = bridge.feature_of(net, (256, 128))
    return None if found is None else found[0].shape[1]


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
