"""The measurements behind "Many cameras" in docs/recipe.md.

  python tools/many_cameras.py draws
  python tools/many_cameras.py learn --root reid-data --checkpoint osnet_x0_25_msmt17.pth \\
      --cameras 30 --opts embae.clusters.eps 0.4

``draws``: batches for simulated clusters and cameras, drawn without regard to cameras and with.
``learn``: `embae adapt` on crops of Market-1501, each of whose six cameras is cut into several by
time; scores on its test people, whose cameras are the six. ``--plain`` draws without regard to
cameras and estimates their statistics before and after all rounds alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from embae_plugin.data import few_cameras
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.few_cameras import camera_batches
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_records
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.lab.benchmark.many_cameras import draw_world, measure
from embae_plugin.methods.recipe import adapt
from embae_plugin.models.door import open_model
from embae_plugin.settings.config import load_config

P, K, CROPS = 18, 4, 7000
COLUMNS = ("few", "across", "never", "uneven", "repeated", "least camera", "cameras")
NAME = re.compile(r"(\d{4})_c(\d)s(\d)_(\d+)_")


def draws() -> None:
    """A table of both ways to draw, over ten worlds each."""
    sys.stdout.write(f"| cameras | {' | '.join(COLUMNS)} |\n{'|---' * (1 + len(COLUMNS))}|\n")
    for near in (False, True):
        for cameras in (6, 15, 30, 60):
            found: list[list[dict[str, float]]] = [[], []]
            for seed in range(10):
                labels, camids = draw_world(cameras, CROPS, near, seed=seed)
                for taken, known in zip(found, (np.zeros_like(camids), camids), strict=True):
                    generator = torch.Generator().manual_seed(seed)
                    batches = camera_batches(labels, known, P, K, CROPS // (P * K), generator)
                    taken.append(measure(batches, labels, camids))
            cells = [
                " → ".join(f"{np.mean([one[name] for one in taken]):.3f}" for taken in found)
                for name in COLUMNS
            ]
            kind = ", neighbours" if near else ""
            sys.stdout.write(f"| {cameras}{kind} | {' | '.join(cells)} |\n")


def crops_of(folder: Path) -> np.ndarray:
    """(N, 3) persons, cameras from 0 and times of the images in a folder of Market-1501, sorted."""
    found = [NAME.match(path.name) for path in sorted(folder.glob("*.jpg"))]
    columns = [[int(value) for value in name.groups()] for name in found if name]
    person, camera, sequence, frame = np.array(columns, dtype=np.int64).T
    return np.stack([person, camera - 1, sequence * 10**7 + frame], axis=1)


def cut(crops: np.ndarray, train: np.ndarray, cameras: int) -> np.ndarray:
    """(N,) cameras of which each of the six is several, of unequal shares of ``train``, by time."""
    pieces = np.diff(np.arange(7) * cameras // 6)
    numbers = np.zeros(len(crops), dtype=np.int64)
    for camera, count in enumerate(pieces):
        times = np.sort(train[train[:, 1] == camera, 2])
        share = 1.0 + (7 * np.arange(count) + camera) % 4
        edges = times[(share.cumsum()[:-1] / share.sum() * len(times)).astype(int)]
        here = crops[:, 1] == camera
        numbers[here] = np.searchsorted(edges, crops[here, 2], "right") + pieces[:camera].sum()
    return numbers


def learn(arguments: argparse.Namespace) -> None:
    """Adapts, scores and prints."""
    root = Path(arguments.root) / "market1501" / "Market-1501-v15.09.15"
    folders = [root / name for name in ("bounding_box_train", "query", "bounding_box_test")]
    tables = [crops_of(folder) for folder in folders]
    people = np.unique(tables[0][:, 0])[::2][: arguments.people]
    kept = np.isin(tables[0][:, 0], people)
    train = tables[0][kept]
    sets = []
    for folder, table in zip(folders, tables, strict=True):
        names = [str(path) for path in sorted(folder.glob("*.jpg")) if NAME.match(path.name)]
        camids = cut(table, train, arguments.cameras)
        sets.append(ImageRecords(tuple(names), camids, np.zeros(len(names), dtype=np.int64)))
    if arguments.plain:
        few_cameras.FEW = sys.maxsize
    late = max(1, arguments.rounds - 2)
    cfg = load_config("", ["embae.clusters.trunk_rounds", str(arguments.rounds),
                           "embae.clusters.constant_rounds", str(late),
                           *arguments.opts])
    bundle = open_model(arguments.checkpoint, 128, 64)
    store = FeatureStore.of(bundle.input, torch.device("cpu"))
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        target = sets[0].rows(np.flatnonzero(kept))
        adapt(bundle.model, target, store, cfg, Path(folder), arguments.seed, use_gpu=False)
    took = time.process_time() - begun
    query, gallery = (embed_records(bundle.model.eval(), store, one, "test", keep=False)
                      for one in sets[1:])
    scores = evaluate_embeddings(query, gallery, tables[1][:, 0], tables[2][:, 0],
                                 tables[1][:, 1], tables[2][:, 1])
    said = ", ".join(f"{name} {s.rank1:.3f} / {s.mAP:.3f}" for name, s in scores.items())
    sys.stdout.write(f"{arguments.cameras} cameras, seed {arguments.seed}: {said}; {took:.0f} s\n")


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("draws", "learn"))
    parser.add_argument("--root", default="reid-data")
    parser.add_argument("--checkpoint", default="osnet_x0_25_msmt17.pth")
    parser.add_argument("--cameras", type=int, default=30)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--opts", nargs="+", default=[], help="key value pairs")
    arguments = parser.parse_args()
    if arguments.what == "draws":
        draws()
    else:
        learn(arguments)


if __name__ == "__main__":
    main()
