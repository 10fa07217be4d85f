"""The one door for models: from a file, a folder or a name to a model ready for use.

Whatever takes a model goes through it: every command's ``--checkpoint``, ``ReID``,
``FeatureExtractor``, and the starting weights of a training run.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from embae_plugin.models import recognition, zoo
from embae_plugin.models.bundle import Bundle, bundle_of, find_checkpoint
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.timm_nets import is_tf_slim
from embae_plugin.models.trunks import build_trunk
from embae_plugin.models.weight_files import FORMAT, bare_state, check_weights, read_file

logger = logging.getLogger(__name__)

SIZE = (256, 128)  # (height, width) of a network that does not say; Hermans et al. (2017)
TIMM, TORCHREID = "timm:", "torchreid:"


def open_model(
    source: str | Path, height: int = 0, width: int = 0, arch: str = ""
) -> Bundle:
    """A model from wherever it is.

    Args:
        source: a checkpoint or weight file: of EmbAE; of torchreid's model zoo or training, with
            or without its classifier; of timm; in torch's formats or safetensors. Or the folder
            of `embae adapt` or of one stage of `embae train`. Or a name: ``torchreid:ARCH/DATA``
            of :func:`zoo.fetch`, ``timm:NAME`` with the weights that timm publishes.
        arch: the network of a weight file, torchreid's name or ``timm:NAME``; "" recognises it by
            the names and shapes of the weights.
        height, width: of the input in pixels; 0 takes what the checkpoint or the network says.

    Raises:
        FileNotFoundError: it is not there, or cannot be fetched; says how to get it by hand.
        ValueError: no model, an unknown network, weights that do not fit or are no numbers, code
            in the file (nothing of it is run), a stage that was not finished.
    """
    return _opened(*_find(source, arch), height, width)


def open_network(
    source: str | Path, height: int = 0, width: int = 0, arch: str = ""
) -> Bundle | None:
    """As :func:`open_model`, or None where it is an EmbAE model or holds weights under its names.

    Those know their network, whatever ``arch`` says.
    """
    name, arch, path, content = _find(source, arch)
    if _is_checkpoint(content):
        spec = content.get("spec")
        embae = not isinstance(spec, dict) or spec.get("head", "dense") == "dense"
    else:
        state = bare_state(path, content) if path else {}
        embae = any(key.startswith("f_emb.") for key in state)
    return None if embae else _opened(name, arch, path, content, height, width)


def _find(source: str | Path, arch: str) -> tuple[str, str, Path | None, Any]:
    """The source by name, its network if that is said, its file (timm's have none), the content."""
    name = str(source)
    if name.startswith(TIMM):
        if arch:
            raise ValueError(f"{name} names its network; leave the architecture {arch!r} out")
        return name, name, None, None
    if name.startswith(TORCHREID):
        source = zoo.fetch(name)
        arch = arch or name.removeprefix(TORCHREID).partition("/")[0]
    path = find_checkpoint(source)
    return name, arch, path, read_file(path)


def _is_checkpoint(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _opened(
    name: str, arch: str, path: Path | None, content: Any, height: int, width: int
) -> Bundle:
    if path is None:
        model = EmbAE.of_trunk(build_trunk(arch.removeprefix(TIMM), "imagenet"))
    elif _is_checkpoint(content):
        if arch:
            raise ValueError(f"{path} is an EmbAE checkpoint, which knows its network; leave the "
                             f"architecture {arch!r} out")
        return bundle_of(path, content, height, width)
    else:
        state = bare_state(path, content)
        if arch.startswith(TIMM) or (not arch and is_tf_slim(state)):
            net = arch.removeprefix(TIMM) or "mobilenetv1"
            model = EmbAE.of_trunk(build_trunk(net, str(path)))
        else:
            arch = recognition.recognise(state, arch, path.name)
            model = _torchreid_model(arch, state, path)
    trunk, (tall, wide) = model.trunk, model.trunk.size or SIZE
    spec = InputSpec.make(height or tall, width or wide, trunk.norm_mean, trunk.norm_std)
    logger.info("%s: %s, %d numbers of %d x %d images", name, trunk.name, model.feature_dim,
                spec.height, spec.width)
    return Bundle(model.eval(), spec, {"stage": "network", "network": trunk.name})


def _torchreid_model(arch: str, state: dict[str, Any], path: Path) -> EmbAE:
    """torchreid's network with these weights; its classifier, if any, is left out."""
    model = EmbAE.of_network(f"{TORCHREID}{arch}")
    parts = (model.trunk.net, model.f_emb)
    check_weights(path, state, {k: v for part in parts for k, v in part.state_dict().items()})
    for part in parts:
        mine = {key: state[key] for key in part.state_dict() if key in state}
        part.load_state_dict(mine, strict=False)  # old files do not count batches
    model.trunk.weights = str(path)
    return model
