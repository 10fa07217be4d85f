"""Files of plain torchreid weights, which trackers load without this package.

One file for cameras that the model has never seen, one more for each camera it knows, with that
camera's batch norm statistics as the network's running statistics. What each file holds is what
the loaders of torchreid 0.2.5 and 1.4.0, BoxMOT 10 to 25, roboflow's reid and deep-sort-realtime
have in common:

- a dict with ``state_dict``: tensors under torchreid's own keys, no classifier, no ``module.``;
- ``model_name``, ``img_size`` and ``preprocess`` beside it, which BoxMOT from 23 on reads;
- the ending ``.pth``, as torchreid has it, and for the same file ``.pt`` as well, without which
  BoxMOT from 23 on does not open one; and a name that begins with the architecture's, by which
  BoxMOT before 23 and its forks tell the network;
- nothing but tensors and plain values, so that torch loads it with ``weights_only=True``.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import torch

from embae_plugin.atomic_file import replacing
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import IMAGENET

logger = logging.getLogger(__name__)

UNKNOWN = -1  # the camera whose statistics serve for all that the model has never seen
SIZE = (256, 128)  # height and width that trackers resize to unless they are told otherwise
# BoxMOT takes a file for one of vehicles, 256 x 256, if its name holds one of these.
VEHICLES = re.compile("(vehicle)(?=id)|(ve)(?=ri)")
LONGEST = 50  # characters of a camera's name; in UTF-8 four bytes each, of 255 that a name may have


def write_torchreid_files(
    bundle: Bundle, folder: Path, unnamed: EmbAE | None = None
) -> list[Path]:
    """Writes ``<architecture>.pth`` and, for each camera, ``<architecture>_<camera>.pth``.

    Each has a second name that ends in ``.pt``: a hard link, or a copy where there are none.
    Missing folders are made; files of these names are replaced, each in one step.

    Args:
        bundle: a model whose trunk is a network of torchreid's zoo.
        unnamed: a plain network for who names no camera; None for the bundle's own, with what all
            its cameras have in common.

    Returns:
        the file for unknown cameras, then one for each of ``bundle.camera_names``, in their order.

    Raises:
        ValueError: the network is none of torchreid's, or its input is not normalised as trackers
            normalise theirs.
        OSError: a file cannot be written.
    """
    model, spec, name = bundle.model, bundle.input, bundle.model.architecture
    if not name:
        raise ValueError("its network is none of torchreid's: no tracker could build it")
    if (spec.norm_mean, spec.norm_std) != IMAGENET:
        raise ValueError(f"its input is normalised by mean {spec.norm_mean} and std "
                         f"{spec.norm_std}; trackers normalise by ImageNet's, and the embeddings "
                         "would be others: use embae export")
    if (spec.height, spec.width) != SIZE:
        logger.warning("%s takes %d x %d pixels; trackers resize to 256 x 128 unless told",
                       name, spec.height, spec.width)
    written = []
    stems = [name, *(f"{name}_{part}" for part in file_names(bundle.camera_names))]
    for camera, stem in enumerate(stems, start=UNKNOWN):
        state = (unnamed or model).torchreid_state() if camera == UNKNOWN else (
            model.torchreid_state(camera))
        content = {
            "state_dict": {key: value.contiguous() for key, value in state.items()},
            "model_name": name,
            "img_size": [spec.height, spec.width],
            "preprocess": "resize",  # stretched, not padded; so BoxMOT calls it
            "camera": "" if camera == UNKNOWN else bundle.camera_names[camera],
        }
        path = folder / f"{stem}.pth"
        with replacing(path) as draft:
            torch.save(content, draft)
        with replacing(path.with_suffix(".pt")) as draft:
            draft.unlink()  # a link can only be made where nothing is
            try:
                draft.hardlink_to(path)
            except OSError:  # the file system has no links
                shutil.copyfile(path, draft)
        written.append(path)
    return written


def file_names(cameras: Iterable[str]) -> list[str]:
    """A part of a file name for each camera: different ones, safe on any system and in trackers.

    Letters and digits of any script and ``-`` stay, all else becomes ``_``; two that would then be
    equal, in capitals or not, get a number: ``gate``, ``Gate-2``.
    """
    parts: dict[str, str] = {}  # by what a file system may take for the same
    for camera in cameras:
        safe = re.sub(r"[^\w-]+", "_", camera)[:LONGEST].strip("_") or "camera"
        safe = VEHICLES.sub(lambda found: f"{found.group()}-", safe)
        names = (f"{safe}-{number}" if number > 1 else safe for number in count(1))
        part = next(name for name in names if name.casefold() not in parts)
        parts[part.casefold()] = part
    return list(parts.values())
