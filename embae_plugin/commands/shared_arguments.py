"""Flags that several commands have, and what they stand for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from tabulate import tabulate

from embae_plugin import distributed
from embae_plugin.data.camera_rules import list_crops
from embae_plugin.data.crops import Crops
from embae_plugin.models.bundle import Bundle
from embae_plugin.models.door import open_model
from embae_plugin.reid import pick_device


def add_checkpoint_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The model."""
    add = parser.add_argument
    add("--checkpoint", required=required, default="",
        help="the model: a file of torchreid's zoo or training, the folder of embae adapt or of a "
        "stage of embae train, a timm or safetensors file, or a name such as "
        "torchreid:osnet_x1_0/msmt17 (embae models lists them) or timm:NAME")
    add("--arch", default="", metavar="NAME",
        help="the network of a weight file, if its weights do not tell: one of torchreid's, or "
        "timm:NAME")
    add("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda, cuda:1")
    add("--height", type=int, default=0, help="of the input in pixels (default: the checkpoint's)")
    add("--width", type=int, default=0, help="of the input, likewise")


def add_crop_arguments(parser: argparse.ArgumentParser) -> None:
    """The crops and how their cameras are identified."""
    add = parser.add_argument
    add("--images", default="", metavar="DIR",
        help="folder of crops, one folder in it for each camera")
    add("--camera-regex", default="", metavar="REGEX",
        help="identifies the camera by a crop's path below DIR instead, by its group 'camera', "
        "e.g. '_c(?P<camera>\\d+)'")
    add("--csv", default="", metavar="FILE",
        help="a table path,camid[,pid] of crops instead; paths relative to it, or to --images")
    add("--max-bad", type=float, default=0.1, metavar="SHARE",
        help="stop if more than this share of the images cannot be used (default: 0.1); fewer are "
        "left out and listed")
    add("--min-side", type=int, default=8, metavar="PIXELS",
        help="a smaller image cannot be used (default: 8)")


def add_method_arguments(
    parser: argparse.ArgumentParser, title: str, methods: Iterable[tuple[str, str]]
) -> None:
    """The settings of methods, whose names and meanings end the help, and a user's own methods."""
    add = parser.add_argument
    add("--verbose", action="store_true", help="log everything to the terminal")
    add("--plugin", action="append", default=[], metavar="FILE",
        help="a Python file, or a module, that registers methods of your own")
    add("opts", nargs=argparse.REMAINDER, help="key value pairs, last")
    table = tabulate(methods, tablefmt="plain", maxcolwidths=[None, 64])
    parser.epilog = f"{title}\n{table}\nAll settings: docs/settings.md"


def model_of(arguments: argparse.Namespace) -> Bundle:
    """The model that the flags of :func:`add_checkpoint_arguments` name."""
    return open_model(arguments.checkpoint, arguments.height, arguments.width, arguments.arch)


def crops_of(arguments: argparse.Namespace) -> Crops:
    """The crops that the flags of :func:`add_crop_arguments` name.

    Raises:
        ValueError, OSError: see :func:`list_crops`; also an impossible ``--max-bad``.
    """
    if not 0 <= arguments.max_bad <= 1:
        raise ValueError(f"--max-bad {arguments.max_bad}: a share, from 0 to 1")
    return list_crops(arguments.images, arguments.csv, arguments.camera_regex)


@contextmanager
def joined(arguments: argparse.Namespace) -> Iterator[torch.device]:
    """The processes of a run, see :func:`distributed.processes`; yields where this one computes.

    Raises:
        ValueError: a device by number, of which each of several processes has its own.
    """
    device = pick_device(arguments.device)
    if device.index is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"--device {device}: each of several processes takes the GPU of its own "
                         "number; give --device cuda, or cpu")
    with distributed.processes(device.type == "cuda"):
        yield device
