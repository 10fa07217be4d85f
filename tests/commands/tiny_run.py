"""``embae train`` on a tiny world: a command line of settings that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

from embae_plugin.commands.main import main

TINY = {
    "model.name": "embae_mobilenetv1", "loss.name": "embae", "use_gpu": "False",
    "data.height": "64", "data.width": "32", "data.combineall": "True", "data.workers": "0",
    "data.norm_mean": "[0.5, 0.5, 0.5]", "data.norm_std": "[0.5, 0.5, 0.5]",
    "train.batch_size": "6", "sampler.num_instances": "2", "train.max_epoch": "2",
    "train.lr_scheduler": "exponential", "test.normalize_feature": "True",
    "sampler.train_sampler": "RandomDatasetIdentitySampler",
    "embae.trunk": "mobilenetv1_x0_25", "embae.trunk_weights": "", "embae.z_id_dim": "8",
    "embae.z_nui_dim": "4", "embae.hidden_dim": "16", "embae.autoencoder.max_epoch": "2",
    "embae.transfer.max_epoch": "1", "embae.transfer.nuisance_epoch": "1",
    "embae.autoencoder.batch_size": "8", "embae.transfer.batch_size": "8",
    "embae.transfer.lr": "0.02", "embae.transfer.final_lr": "0.01",
    "embae.embedding.precision": "float32",
}
VARIANTS = ["all", "fix", "new", "dataset", "cam"]


def train(root: Path, save_dir: Path, **changes: str) -> int:
    """``embae train`` with :data:`TINY` and changes, ``__`` in place of the points."""
    sources = changes.pop("sources", "viper").split()
    options = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    pairs = [text for pair in options.items() for text in pair]
    return main(["train", "-s", *sources, "-t", "market1501", "--root", str(root),
                 "data.save_dir", str(save_dir), *pairs])


def rows_of(save_dir: Path) -> list[dict]:
    return json.loads((save_dir / "results.json").read_text(encoding="utf-8"))["rows"]
