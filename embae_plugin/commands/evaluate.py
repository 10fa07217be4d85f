"""Scores embeddings, or a model on a data set, by both protocols.

  embae evaluate --query query.npz --gallery gallery.npz
  embae evaluate --query labelled.npz
  embae evaluate --checkpoint log/…/transfer-cam --config-file … --root reid-data
  embae evaluate --checkpoint adapted --root reid-data -t market1501

Files are of `embae extract` with identities (--csv with a column pid). Without --gallery each
labelled crop of the query file is a query among the others. Crops without identity are left out.
With a data set (of a configuration, or -t) its query and gallery are embedded and scored. Its
cameras are named market1501:0 and so on, as in embae train; --camera-regex takes their names from
the file names instead, as in embae adapt. A model uses the statistics of the cameras it knows by
name, and says which it does not know.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from embae_plugin.commands.shared_arguments import add_checkpoint_arguments, model_of
from embae_plugin.data.camera_rules import camera_rule
from embae_plugin.data.embedding_files import Texts, read_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, load_data, queries_and_gallery
from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.evaluation.score_table import dropped_note, score_row, score_table, write_text
from embae_plugin.reid import Floats, pick_device
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, get_default_config, load_config
from embae_plugin.training.scoring import score_model

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add = parser.add_argument
    add("--query", default="", help="a file of embae extract with identities")
    add("--gallery", default="", help="likewise; without it, the query file's own")
    add_checkpoint_arguments(parser, required=False)
    add("--config-file", default="", help="instead: whose target is scored")
    add("--root", default="", help="folder with the data sets")
    add("-t", "--targets", nargs="+", default=[], metavar="NAME",
        help="the data set, if it is not the configuration's")
    add("--camera-regex", default="", metavar="REGEX",
        help="names a data set's cameras by the group 'camera' in a crop's file name, e.g. "
        "'_c(?P<camera>\\d)'")
    add("--unnamed-cameras", action="store_true",
        help="name no camera to the model, as where nobody can")
    add("--json", default="", metavar="FILE", help="write the scores as JSON")
    add("--verbose", action="store_true", help="log everything to the terminal")
    add("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    given = arguments.config_file or arguments.root or arguments.targets
    if bool(arguments.query) == bool(given):
        raise ValueError("give either --query (and --gallery), or --config-file, --root and "
                         "--checkpoint")
    with log_to(None, arguments.verbose):
        scores = _score_files(arguments) if arguments.query else _score_data(arguments)
        row = score_row(arguments.query or arguments.checkpoint, scores)
        if arguments.json:
            write_text(arguments.json, json.dumps(row, indent=1, allow_nan=False) + "\n")
        note = dropped_note([row])
        sys.stdout.write(f"{score_table([row])}\n" + (note and f"\n{note}\n"))
    return 0


def _labelled(path: str) -> tuple[list[tuple[Floats, Texts, Texts]], str]:
    """Embeddings, identities and cameras of a file's possible queries and gallery; its model."""
    table = read_embeddings(path)
    pids = np.zeros(len(table), "<U1") if table.pids is None else table.pids
    queries, gallery = queries_and_gallery(pids)
    if not gallery.any():
        raise ValueError(
            f"{path} holds no identities: list the crops with --csv, in columns path,camid,pid, "
            "when you embed them with embae extract"
        )
    if left := int((~gallery).sum()):
        logger.info("%s: %d crops without identity are left out", path, left)
    if distractors := int((gallery & ~queries).sum()):
        logger.info("%s: %d crops of pid 0 are distractors, and no queries: give people other "
                    "numbers", path, distractors)
    parts = [(table.embeddings[rows], pids[rows], table.cameras[rows])
             for rows in (queries, gallery)]
    return parts, table.about.get("model", "")


def _score_files(arguments: argparse.Namespace) -> dict[str, Scores]:
    (query, gallery), model = _labelled(arguments.query)
    if not len(query[0]):
        raise ValueError(f"{arguments.query} holds no queries: pid 0 stands for distractors")
    if arguments.gallery:
        (_, gallery), other = _labelled(arguments.gallery)
        if model != other:
            raise ValueError(f"{arguments.query} and {arguments.gallery} come from different "
                             "models: embed both with one")
    (q, q_pids, q_cameras), (g, g_pids, g_cameras) = query, gallery
    numbers = np.unique(np.concatenate([q_pids, g_pids]), return_inverse=True)[1]
    return evaluate_embeddings(q, g, numbers[: len(q)], numbers[len(q) :], q_cameras, g_cameras)


def _score_data(arguments: argparse.Namespace) -> dict[str, Scores]:
    if not arguments.checkpoint:
        raise ValueError("--checkpoint is needed: which model to score")
    if arguments.unnamed_cameras and arguments.camera_regex:
        raise ValueError("--unnamed-cameras and --camera-regex exclude each other")
    base = get_default_config()
    base.test.normalize_feature = True  # torchreid's default, False, is none of Re-ID's
    cfg = load_config(arguments.config_file, arguments.opts, base)
    cfg.data.root = arguments.root or cfg.data.root
    cfg.data.targets = list(arguments.targets) or cfg.data.targets
    check_config(cfg)
    cfg.data.sources = []  # which scoring does not read
    bundle = model_of(arguments)
    data = load_data(cfg)
    if data.query is None or data.gallery is None:
        raise ValueError("the configuration names no target (data.targets) to score on")
    query, gallery = (_with_cameras(records, arguments) for records in (data.query, data.gallery))
    device, cache = pick_device(arguments.device), cfg.embae.cache_dir
    store = FeatureStore.of(bundle.input, device, cache_dir=cache, image_cache_dir=cache,
                            memory_share=cfg.embae.image_memory_share)
    normalize = cfg.test.normalize_feature or cfg.test.dist_metric == "cosine"
    model = bundle.model.to(device)
    return score_model(model, store, query, gallery, cfg.embae.test.tta, normalize)


def _with_cameras(records: ImageRecords, arguments: argparse.Namespace) -> ImageRecords:
    """A data set's crops with their cameras named as the flags say."""
    if arguments.unnamed_cameras:
        return records.unnamed()
    if not arguments.camera_regex:
        return records
    rule = camera_rule(arguments.camera_regex)
    found = [rule.search(Path(path).name) for path in records.paths]
    missed = [path for path, match in zip(records.paths, found, strict=True) if not match]
    if missed:
        raise ValueError(f"--camera-regex {arguments.camera_regex!r} does not fit {len(missed)} of "
                         f"{len(found)} file names, such as {missed[0]}")
    return replace(records, cameras=tuple(match["camera"] for match in found if match))
