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
from embae_plugin.data.embedding_files import EmbeddingTable, texts, write_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ReIDData, load_data
from embae_plugin.embedder import embed_records
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
    started = time.monotonic()
    out = Path(arguments.out)
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
        seen, scores, seconds = out / "cameras.png", out / "run/scores.png", time.monotonic()
        logger.info("what the cameras see: %s; scores: %s; %.0f seconds in all", seen, scores,
                    seconds - started)
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
    files = [path for records in parts.values() for path in records.paths]
    root = os.path.commonpath([os.path.dirname(path) for path in files])
    cameras = np.concatenate([records.camids for records in parts.values()])
    pids = np.concatenate([np.asarray(records.pids) for records in parts.values()])
    for when, stage in stages.items():
        bundle = open_model(stage)
        # The run has left the features there.
        store = FeatureStore.of(bundle.input, cache_dir=out / "run" / "features")
        z = [embed_records(bundle.model, store, crops, name) for name, crops in parts.items()]
        table = EmbeddingTable(
            texts([os.path.relpath(path, root) for path in files]),
            texts([f"camera {camid + 1}" for camid in cameras]), torch.cat(z).numpy(),
            pids.astype(np.str_),
            {"model": state_fingerprint(bundle.model), "root": os.path.abspath(root)},
        )
        write_embeddings(out / f"{when}.npz", table)
    for name, records in parts.items():
        lines = [f"{os.path.relpath(path, root)}\n" for path in records.paths]
        write_text(out / f"{name}.txt", "".join(lines))
    pair = read_pair(*(out / f"{name}.npz" for name in stages), *(out / f"{p}.txt" for p in parts))
    settings = Settings(title="The built-in cameras before and after", map_method="pca")
    write_page(out / "report.html", gather(pair, settings))
    logger.info("before and after, crop by crop: %s", out / "report.html")
