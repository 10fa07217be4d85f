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

from embae_plugin.report_page import Settings, gather, read_pair, write_page
from embae_plugin.report_page.projection import NAMES
from embae_plugin.runtime import log_to

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the report."""
    standard = Settings()
    parser.add_argument("--before", required=True, metavar="FILE", help="embeddings before")
    parser.add_argument("--after", required=True, metavar="FILE", help="embeddings after")
    parser.add_argument("--out", required=True, metavar="FILE", help="the page to write")
    parser.add_argument("--images-root", default="", metavar="DIR",
                        help="what the crops' paths count from (or as extracted)")  # fmt: skip
    parser.add_argument("--query", default="", metavar="FILE",
                        help="text file with the path of one query on each line")  # fmt: skip
    parser.add_argument("--gallery", default="", metavar="FILE",
                        help="likewise for the gallery; without both, every labelled crop is a "
                             "query against all others")  # fmt: skip
    parser.add_argument("--title", default=standard.title)
    parser.add_argument("--seed", type=int, default=standard.seed, help="of all samples drawn")
    parser.add_argument("--map", default=standard.map_method, choices=list(NAMES),
                        dest="map_method", help="umap needs umap-learn (default: tsne)")
    for flag, name, text in (
        ("--map-limit", "map_limit", "crops in the map"),
        ("--queries", "queries", "queries that lists and intervals are taken from"),
        ("--lists", "lists", "ranked lists of each kind"),
        ("--length", "length", "crops in a list"),
    ):
        number = getattr(standard, name)
        parser.add_argument(flag, type=int, default=number, dest=name, metavar="N",
                            help=f"{text}, at most (default: {number})")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    with log_to():
        settings = Settings(
            title=arguments.title, seed=arguments.seed, map_method=arguments.map_method,
            map_limit=arguments.map_limit, queries=arguments.queries, lists=arguments.lists,
            length=arguments.length,
        )  # fmt: skip
        pair = read_pair(arguments.before, arguments.after, arguments.query, arguments.gallery,
                         arguments.images_root)  # fmt: skip
        write_page(arguments.out, gather(pair, settings))
        logger.info("the report is %s", arguments.out)
    return 0
