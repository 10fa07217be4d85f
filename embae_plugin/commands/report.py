"""Writes one HTML page that shows a target before and after adaptation.

  embae report --before before.npz --after after.npz --out report.html

The two files hold embeddings of the same crops by two models (`embae extract`). The page is one
file that opens from the disk and fetches nothing: scores, CMC curves, a map of the embeddings,
distances, and ranked lists with the crops. Without identities it shows what can be seen without
them: neighbours and how the cameras mix.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields

from embae_plugin.report_page import Settings, gather, read_pair, write_page
from embae_plugin.report_page.projection import NAMES
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the report."""
    add, standard = parser.add_argument, Settings()
    add("--before", required=True, metavar="FILE", help="embeddings before")
    add("--after", required=True, metavar="FILE", help="embeddings after")
    add("--out", required=True, metavar="FILE", help="the page to write")
    add("--images-root", default="", metavar="DIR",
        help="what the crops' paths count from (or as extracted)")
    add("--query", default="", metavar="FILE",
        help="text file with the path of one query on each line")
    add("--gallery", default="", metavar="FILE",
        help="likewise for the gallery; without both, every labelled crop is a query against all "
        "others")
    add("--title", default=standard.title)
    add("--seed", type=int, default=standard.seed, help="of all samples drawn")
    add("--map", default=standard.map_method, choices=list(NAMES), dest="map_method",
        help="umap needs umap-learn (default: tsne)")
    for name, text in (
        ("map_limit", "crops in the map"),
        ("queries", "queries that lists and intervals are taken from"),
        ("lists", "ranked lists of each kind"),
        ("length", "crops in a list"),
    ):
        number = getattr(standard, name)
        add(f"--{name.replace('_', '-')}", type=int, default=number, metavar="N",
            help=f"{text}, at most (default: {number})")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    with log_to():
        settings = Settings(**{one.name: vars(arguments)[one.name] for one in fields(Settings)})
        pair = read_pair(arguments.before, arguments.after, arguments.query, arguments.gallery,
                         arguments.images_root)
        write_page(arguments.out, gather(pair, settings))
        logger.info("the report is %s", arguments.out)
    return 0
