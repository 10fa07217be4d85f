"""The one door for models: from a file, a folder or a name to a model ready for use.

Whatever takes a model goes through :func:`open_model`: every command's ``--checkpoint``, ``ReID``,
``FeatureExtractor``, and the starting weights of a training run.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from embae_plugin.models import recognition, weight_files, zoo
from embae_plugin.models.bundle import Bundle, bundle_of, find_checkpoint
from embae_plugin.models.checkpoint_file import FORMAT, check_kinds
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunk_weights import is_tf_slim
from embae_plugin.models.trunks import build_trunk

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
    name = str(source)
    if name.startswith(TIMM):
        if arch:
            raise ValueError(f"{name} names its network; leave the architecture {arch!r} out")
        trunk = build_trunk(name.removeprefix(TIMM), "imagenet")
        return _bundle(EmbAE.of_trunk(trunk), name, height, width)
    if name.startswith(TORCHREID):
        source = zoo.fetch(name)
        arch = arch or name.removeprefix(TORCHREID).partition("/")[0]
    path = find_checkpoint(source)
    content = weight_files.read_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if arch and not name.startswith(TORCHREID):
            raise ValueError(
                f"{path} is an EmbAE checkpoint, which knows its network; leave the architecture "
                f"{arch!r} out"
            )
        return bundle_of(path, content, height, width)
    state = weight_files.bare_state(path, content)
    if arch.startswith(TIMM) or (not arch and is_tf_slim(state)):
        trunk = build_trunk(arch.removeprefix(TIMM) or "mobilenetv1", str(path))
        return _bundle(EmbAE.of_trunk(trunk), str(path), height, width)
    arch = recognition.recognise(state, arch, path.name)
    return _bundle(_torchreid_model(arch, state, path), name, height, width)


def holds_embae(source: str | Path) -> bool:
    """Whether a file holds an EmbAE model, or weights under its names, and no other network.

    Raises:
        FileNotFoundError, ValueError: see :func:`open_model`.
    """
    if str(source).startswith((TIMM, TORCHREID)):
        return False
    path = find_checkpoint(source)
    content = weight_files.read_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        spec = content.get("spec")
        return not isinstance(spec, dict) or spec.get("head", "dense") == "dense"
    return any(key.startswith("f_emb.") for key in weight_files.bare_state(path, content))


def _torchreid_model(arch: str, state: dict[str, Any], path: Path) -> EmbAE:
    """torchreid's network with these weights; its classifier, if any, is left out."""
    model = EmbAE.of_network(f"{TORCHREID}{arch}")
    parts = (model.trunk.net, model.f_emb)
    own = {key: value for part in parts for key, value in part.state_dict().items()}
    check_kinds(path, state, own)
    held = {key: state[key] for key in own if key in state}
    weight_files.check_finite(path, held, held)
    for part in parts:
        mine = {key: held[key] for key in part.state_dict() if key in held}
        part.load_state_dict(mine, strict=False)  # old files do not count batches
    model.trunk.weights = str(path)
    return model.eval()


def _bundle(model: EmbAE, source: str, height: int, width: int) -> Bundle:
    """The network as it is, with the input that it expects."""
    trunk = model.trunk
    tall, wide = trunk.size or SIZE
    spec = InputSpec.make(height or tall, width or wide, trunk.norm_mean, trunk.norm_std)
    logger.info("%s: %s, %d numbers of %d x %d images", source, trunk.name, model.feature_dim,
                spec.height, spec.width)  # fmt: skip
    return Bundle(model.eval(), spec, {"stage": "network", "network": trunk.name})
