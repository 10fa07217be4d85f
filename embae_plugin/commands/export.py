"""Writes a model as one ONNX or TorchScript file, preprocessing included, and checks it.

  embae export --checkpoint adapted/ --format onnx --out model.onnx --check crops
  embae export --checkpoint adapted/ --camera gate --format torchscript --out gate.pt
  embae export --checkpoint adapted/ --format torchreid --out weights/

The file takes R G B images in [0, 1] of the size it names and returns embeddings of length 1;
docs/export.md shows how to use it. With --camera it holds that camera's statistics, and takes
images alone. With --check the file and the model embed the same crops; a difference above 1e-4
leaves no file behind. The format torchreid is a folder of plain weights, one file for each camera,
that torchreid and the trackers built on it load (docs/use_in_a_tracker.md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from embae_plugin.commands.shared_arguments import add_checkpoint_arguments, model_of
from embae_plugin.embedder import UNKNOWN
from embae_plugin.export.equality import TOLERANCE, largest_difference, some_images, unit_images
from embae_plugin.export.formats import FORMATS, ImagesToEmbeddings, Runner, export_model
from embae_plugin.export.torchreid_files import write_torchreid_files
from embae_plugin.models.bundle import Bundle
from embae_plugin.runtime import log_to

TORCHREID = "torchreid"


class Differs(Exception):
    """The exported file does not compute what the model computes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the export."""
    add_checkpoint_arguments(parser)
    add = parser.add_argument
    add("--format", required=True, choices=[*sorted(FORMATS), TORCHREID])
    add("--out", required=True, metavar="FILE", help="what to write; with torchreid, a folder")
    add("--camera", default="", metavar="NAME",
        help="fold this camera's statistics in (unknown: one never seen)")
    add("--check", nargs="+", default=[], metavar="DIR_OR_FILE",
        help="compare with the model on these crops (or on noise)")
    add("--check-limit", type=int, default=64, metavar="N",
        help="of that many crops at most, evenly spread (default: 64)")
    add("--no-normalize", action="store_true",
        help="leave embeddings at the length the model gives them")
    add("--tta", default="none", choices=("none", "flip"),
        help="flip: average with the mirror image, better and half as fast (default: none)")


def run(arguments: argparse.Namespace) -> int:
    """Exports; 0 done, 1 if the file computes something else than the model."""
    if arguments.check_limit < 1:
        raise ValueError(f"--check-limit {arguments.check_limit}: at least 1")
    with log_to():
        bundle = _of_camera(model_of(arguments), arguments.camera)
        if arguments.format == TORCHREID:
            for path in write_torchreid_files(bundle, Path(arguments.out)):
                sys.stdout.write(f"{path}\n")
            return 0
        if arguments.check:
            crops = some_images(arguments.check, arguments.check_limit)
            images, kind = unit_images(crops, bundle.input), "crops"
        else:
            shape = (3, 3, bundle.input.height, bundle.input.width)
            images = np.random.default_rng(0).random(shape, dtype=np.float32)
            kind = "images of noise"
        normalize, flip = not arguments.no_normalize, arguments.tta == "flip"
        graph = ImagesToEmbeddings(bundle, normalize, flip)

        def check(run: Runner) -> None:
            worst = largest_difference(graph, run, images, len(bundle.camera_names))
            sys.stdout.write(f"largest difference on {len(images)} {kind}: {worst:.1e}\n")
            if not worst <= TOLERANCE:
                raise Differs(f"the exported file differs from the model by {worst:.1e}, more than "
                              f"{TOLERANCE:g}; it was not kept. Try the other --format")

        try:
            export_model(bundle, arguments.out, arguments.format, normalize, flip, check)
        except Differs as error:
            sys.stderr.write(f"embae: {error}\n")
            return 1
    return 0


def _of_camera(bundle: Bundle, camera: str) -> Bundle:
    """The model with one camera's statistics folded in, if one is named."""
    if not camera:
        return bundle
    if not bundle.camera_names:
        raise ValueError(f"--camera {camera}: this model knows no cameras; leave it out")
    if camera not in (UNKNOWN, *bundle.camera_names):
        raise ValueError(f"--camera {camera}: the model knows {', '.join(bundle.camera_names)}, "
                         f"and {UNKNOWN} stands for any other")
    model = bundle.model.of_camera(int(bundle.model.camera_numbers([camera])[0]))
    return Bundle(model, bundle.input, {**bundle.about, "camera": camera})
