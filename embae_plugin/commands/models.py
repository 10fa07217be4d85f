"""Lists the published Re-ID models that every command takes by name, and fetches them.

  embae models                                       the list, and what else --checkpoint takes
  embae models torchreid:osnet_x1_0/msmt17           fetches a model now, for use without network

A model is fetched on first use and kept in $EMBAE_CACHE/models (without that variable: embae/models
below $XDG_CACHE_HOME or ~/.cache); its checksum is compared at every use.
"""

from __future__ import annotations

import argparse
import sys

from tabulate import tabulate

from embae_plugin.models.zoo import cache_folder, fetch, published_models
from embae_plugin.runtime import log_to

_OTHERS = (
    ("FILE", "a checkpoint of this package or of torchreid, or bare weights of a torchreid model "
             "(.pth, .pt, .pth.tar, .safetensors): the architecture is recognised"),
    ("DIR", "a folder of `embae adapt`, or of one stage of `embae train`"),
    ("timm:NAME", "a network of timm with ImageNet weights, such as timm:resnet50"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to fetch")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with log_to():
        for name in arguments.names:
            sys.stdout.write(f"{fetch(name)}\n")
    if not arguments.names:
        rows = [
            (model.name, model.trained_on, f"{model.millions} M",
             "yes" if model.path.is_file() else "no")
            for model in published_models()
        ]
        table = tabulate(rows, headers=["Name", "Trained on", "Parameters", "Fetched"])
        others = tabulate(_OTHERS, tablefmt="plain")
        sys.stdout.write(f"{table}\n\nFetched into {cache_folder()}\n\n"
                         f"--checkpoint also takes\n{others}\n")
    return 0
