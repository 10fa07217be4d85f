"""How long a run will take: as long as another seed took, or from a few timed steps.

The timed steps are the engines' own, on noise, with the network, crop size, batch size and
precision of the configuration, on the machine that would train.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from yacs.config import CfgNode

from embae_plugin.data.augment import normalise
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.methods.embedding import ImageEmbeddingEngine
from embae_plugin.methods.pipeline import build_model
from embae_plugin.methods.reconstruction_phase import PARTS, ReconstructionPhase
from embae_plugin.methods.transfer import VARIANTS
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import freeze
from embae_plugin.training.train_step import resolve_precision

_VIEWS = {"none": 1, "flip": 2, "ten_crop": 10}


@dataclass(frozen=True)
class Speeds:
    """Seconds on this machine.

    Attributes:
        train_step: of stage 1, for a batch.
        view: the trunk's features of one crop.
        head_step: of stages 2 and 3, for a batch of features.
        pul_step: of PUL, for a batch; of the head alone where it learns no more.
    """

    train_step: float
    view: float
    head_step: float
    pul_step: float


def _seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The fastest of ``repeats`` calls, after two to warm up."""
    best = float("inf")
    for number in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            best = min(best, time.perf_counter() - start)
    return best


def measure_speeds(cfg: CfgNode, repeats: int = 3) -> Speeds:
    """Times a few steps of each kind with a configuration; nothing is kept."""
    cfg = cfg.clone()
    cfg.model.pretrained, cfg.model.load_weights = False, ""
    device = torch.device("cuda" if cfg.use_gpu and torch.cuda.is_available() else "cpu")
    model = build_model(cfg).to(device)
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 255, (cfg.data.height, cfg.data.width, 3))
        crop = Path(folder) / "noise.png"
        Image.fromarray(noise.astype(np.uint8)).save(crop)
        people = np.arange(cfg.train.batch_size) // cfg.sampler.num_instances
        one = np.zeros(len(people), dtype=np.int64)
        records = ImageRecords((str(crop),) * len(people), one, one, people)
        store = FeatureStore(cfg.data.height, cfg.data.width, model.trunk.norm_mean,
                             model.trunk.norm_std, device)  # fmt: skip
        data = ReIDData(sources=["noise"], source=records)
        node = cfg.embae.embedding
        engine = ImageEmbeddingEngine(
            data, model, batch_size=len(people), num_instances=cfg.sampler.num_instances,
            transforms=["random_flip"], precision=node.precision, step=node.step,
            use_gpu=device.type == "cuda", store=store,
        )  # fmt: skip
        phase = engine.phases(1)[0]
        phase.start()
        phase.start_epoch(0)
        train_step = _seconds(lambda: phase.step(0, 0), device, repeats)
        crops = normalise(store.images(records, "noise").images.to(device), store.mean, store.std)
    # More or fewer crops than a batch of stage 1 has.
    pul_crops = crops[torch.arange(cfg.embae.pul.batch_size) % len(crops)]
    fused = freeze(model.eval().trunk, store.size, device)
    with torch.inference_mode():
        views = _seconds(lambda: fused(crops), device, repeats)
    head_step = _head_step(model, cfg.embae.autoencoder.batch_size, device, PARTS)
    pul_step = _trunk_step(model, pul_crops, resolve_precision(node.precision, device))
    if cfg.embae.pul.heads_only:
        pul_step = _head_step(model, cfg.embae.pul.batch_size, device, ("f_emb",))
    return Speeds(
        train_step, views / len(people),
        *(_seconds(step, device, repeats) for step in (head_step, pul_step)),
    )  # fmt: skip


def _trunk_step(model: EmbAE, crops: torch.Tensor, bf16: bool) -> Callable[[], object]:
    """Forward and backward through the trunk; the update is short beside them."""

    def step() -> None:
        model.requires_grad_(True).train()
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=bf16):
            h = model.trunk(crops)
        h.float().square().mean().backward()

    return step


def _head_step(
    model: EmbAE, size: int, device: torch.device, learn: Sequence[str]
) -> Callable[[], object]:
    features = torch.randn(
        size, 1, model.trunk.feature_dim, generator=torch.Generator().manual_seed(0)
    )
    phase = ReconstructionPhase(
        "noise", model, features.to(device), torch.zeros(size, dtype=torch.long), learn, 1,
        lr=1e-3, final_lr=1e-3, batch_size=size, seed=0,
    )  # fmt: skip

    def step() -> None:
        if phase.optimizer is None:
            phase.start()
            phase.start_epoch(0)
        phase.step(0, 0)

    return step


def estimated_seconds(cfg: CfgNode, images: dict[str, int], speeds: Speeds) -> float:
    """What a whole run of a configuration takes; decoding, ranking and clustering are left out.

    Args:
        images: see :func:`~embae_plugin.lab.reproduction.runner.count_images`.
    """
    embae, batch = cfg.embae, cfg.train.batch_size
    source, target = images["source"], images["target"]
    views = _VIEWS[embae.test.tta] * (images["query"] + images["gallery"])
    training, own = 0.0, list(embae.variants) == ["pul"] and embae.pul.base == "softmax"
    if "pul" in embae.variants:
        # The share of images that PUL keeps is not known beforehand: all of them, at most.
        seen = embae.pul.rounds * embae.pul.max_epoch * target
        seen += embae.pul.baseline_epoch * source if embae.pul.base == "softmax" else 0
        training += seen / embae.pul.batch_size * speeds.pul_step
        views *= 2  # its trunk is another one in the end
        views += 0 if embae.pul.heads_only else embae.pul.rounds * target
    if own:  # none of EmbAE's stages
        return float(training + views * speeds.view)
    views += 2 * (source + target)
    training += max(1, source // batch) * cfg.train.max_epoch * speeds.train_step
    return float(training + views * speeds.view + _head_steps(cfg, images) * speeds.head_step)


def _head_steps(cfg: CfgNode, images: dict[str, int]) -> int:
    """Steps of stages 2 and 3 together."""
    stage_2, stage_3 = cfg.embae.autoencoder, cfg.embae.transfer
    chosen = [VARIANTS[name] for name in cfg.embae.variants if name in VARIANTS]
    kinds = len({variant.encoders for variant in chosen})
    epochs = stage_3.max_epoch * len(chosen)
    epochs += stage_3.nuisance_epoch * sum(variant.renewed is not None for variant in chosen)
    steps = kinds * stage_2.max_epoch * max(1, images["source"] // stage_2.batch_size)
    return int(steps + epochs * max(1, images["target"] // stage_3.batch_size))
