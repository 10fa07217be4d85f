"""The whole method on the built-in synthetic cameras: minutes on two cores, nothing to download.

  embae demo --out demo

Draws two labelled camera networks and an unlabelled one, trains the embedding on the first two,
adapts it to the third by every variant of the paper and prints their scores. Leaves
in --out: the crops, a sheet of what the cameras see, the plot of scores, all that a run of
`embae train` leaves, and report.html, the target before and after adaptation, together with the
embeddings it was made of.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

import numpy as np
import torch

from embae_plugin.commands.train import run_config
from embae_plugin.data.crops import Crops
from embae_plugin.data.embedding_files import write_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ReIDData, load_data
from embae_plugin.embedder import crops_table, embed_records
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.evaluation.thumbnails import save_camera_sheet
from embae_plugin.models.door import open_model
from embae_plugin.report_page import Settings, gather, read_pair, write_page
from embae_plugin.runtime import log_to
from embae_plugin.settings.config import check_config, load_config
from embae_plugin.settings.files import find_config
from embae_plugin.training.run_identity import state_fingerprint

logger = logging.getLogger(__name__)

# What the report shows; a new nuisance encoder needs to know nothing of the target's cameras.
BEFORE, AFTER = "embedding", "transfer-new"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the demo."""
    parser.add_argument("--out", default="demo", help="where everything goes (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="of the training (default: 1)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key value pairs, last")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo."""
    started, out = time.monotonic(), Path(arguments.out)
    cfg = load_config(find_config("synthetic.yaml"), arguments.opts)
    cfg.data.root, cfg.data.save_dir = str(out / "reid-data"), str(out / "run")
    cfg.train.seed = arguments.seed
    check_config(cfg)
    with log_to(out / "run" / "train.log"):
        logger.info("the built-in cameras are under %s", cfg.data.root)
        data = load_data(cfg)
        save_camera_sheet(out / "cameras.png", data)
        run_config(cfg)
        write_report(out, data)
        logger.info("what the cameras see: %s; scores: %s; %.0f seconds in all",
                    out / "cameras.png", out / "run/scores.png", time.monotonic() - started)
    return 0


def write_report(out: Path, data: ReIDData) -> None:
    """Writes report.html of the target by the models in ``out``/run, and its embeddings with it.

    `embae report` repeats it from before.npz, after.npz, query.txt and gallery.txt. Without an
    adapted model (other stages or variants were asked for) there is nothing to show.
    """
    stages = {"before": out / "run" / BEFORE, "after": out / "run" / AFTER}
    if data.query is None or data.gallery is None or not all(map(Path.is_dir, stages.values())):
        logger.info("no report: it compares the models %s and %s", *stages.values())
        return
    parts = {"query": data.query, "gallery": data.gallery}
    root = os.path.commonpath([os.path.dirname(p) for one in parts.values() for p in one.paths])
    names = {part: [os.path.relpath(p, root) for p in one.paths] for part, one in parts.items()}
    camids, pids = (np.concatenate([getattr(one, key) for one in parts.values()]).tolist()
                    for key in ("camids", "pids"))
    crops = Crops(Path(root), (*names["query"], *names["gallery"]),
                  tuple(f"camera {number + 1}" for number in camids), tuple(map(str, pids)))
    for when, stage in stages.items():
        bundle = open_model(stage)
        # The run has left the features there.
        store = FeatureStore.of(bundle.input, cache_dir=out / "run" / "features")
        z = [embed_records(bundle.model, store, one, part) for part, one in parts.items()]
        about = {"model": state_fingerprint(bundle.model), "root": os.path.abspath(root)}
        write_embeddings(out / f"{when}.npz", crops_table(crops, torch.cat(z), about))
    for part, listed in names.items():
        write_text(out / f"{part}.txt", "".join(f"{name}\n" for name in listed))
    pair = read_pair(*(out / f"{when}.npz" for when in stages), *(out / f"{p}.txt" for p in parts))
    settings = Settings(title="The built-in cameras before and after", map_method="pca")
    write_page(out / "report.html", gather(pair, settings))
    logger.info("before and after, crop by crop: %s", out / "report.html")
