"""Stages 2 and 3 on cached features, against the same steps with the trunk run again in each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from embae_plugin.benchmark.context import Context
from embae_plugin.benchmark.floors import adam_traffic, reconstruction_operations
from embae_plugin.benchmark.measure import Measured, Row, Task, alternate, seconds
from embae_plugin.benchmark.stock import NORM, build_model, read_data, read_records
from embae_plugin.config import get_default_config
from embae_plugin.data.augment import flip, normalise
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.engine.autoencoder import ImageAutoencoderEngine
from embae_plugin.engine.reconstruction import ReconstructionPhase
from embae_plugin.engine.transfer import ImageTransferEngine
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import fuse_for_inference

SUBJECT = "stages"
IMAGES = 1024  # that batches are drawn from: four of them
MARKET = 12_936  # training images of Market-1501


@torch.no_grad()
def recomputed_features(
    phase: ReconstructionPhase, trunk: nn.Module, bank: ImageBank, step: int
) -> torch.Tensor:
    """What ``phase`` reads from its bank in a step, computed from the images instead."""
    rows = phase.plan[step]
    images = bank.batch(torch.div(rows, phase.views, rounding_mode="floor"))
    mirrored = rows % phase.views == 1
    batch: torch.Tensor = trunk(normalise(flip(images, mirrored), NORM, NORM))
    return batch.float()


def recomputed_step(
    phase: ReconstructionPhase, trunk: nn.Module, bank: ImageBank, step: int
) -> dict[str, torch.Tensor]:
    """A step of ``phase`` on the same batch, with h, and what is fixed behind it, made anew."""
    h = recomputed_features(phase, trunk, bank, step)
    anew = copy.copy(phase)  # shares the model and the optimiser
    anew.rows, anew.plan = h, torch.arange(len(h), device=h.device)[None]
    with torch.no_grad():
        if phase.z_id is not None:
            anew.z_id = phase.model.f_emb(h)
        if phase.z_nui is not None:
            grouped = h.view(phase.num_groups, phase.per_group, -1)
            anew.z_nui = phase.model.f_nui.forward_grouped(grouped).flatten(0, 1)
    return anew.step(0, 0)


@dataclass(frozen=True)
class _Part:
    """One of the optimisations that stages 2 and 3 consist of.

    Attributes:
        name: of the table's row.
        engine, index: whose phase it is, and which of its phases.
        epochs: as configured by default.
    """

    name: str
    engine: ImageAutoencoderEngine | ImageTransferEngine
    index: int
    epochs: int


def _parts(context: Context, device: str, model: EmbAE, store: FeatureStore) -> list[_Part]:
    data = read_data(context.crops(IMAGES, 1, 1))
    embae, use_gpu = get_default_config().embae, device == "cuda"
    pretrain = ImageAutoencoderEngine(data, model, "camera", use_gpu=use_gpu, store=store)
    adapt = ImageTransferEngine(data, model, "cam", use_gpu=use_gpu, store=store)
    return [
        _Part("stage 2, an encoder per camera", pretrain, 0, embae.autoencoder.max_epoch),
        _Part("stage 3 cam, new encoders", adapt, 0, embae.transfer.nuisance_epoch),
        _Part("stage 3 cam, embedding", adapt, 1, embae.transfer.max_epoch),
    ]


def _compare(
    context: Context, device: str, part: _Part, trunk: nn.Module, bank: ImageBank
) -> tuple[Row, ReconstructionPhase]:
    """The row of one part: a step with h recomputed, and one with h cached."""
    sizes = context.sizes
    phase = cast(ReconstructionPhase, part.engine.phases(2)[part.index])
    phase.start()
    phase.start_epoch(0)

    def steps(count: int, step: Callable[[int], object]) -> Task:
        def run() -> None:
            for number in range(count):
                step(number % phase.steps)

        return lambda: seconds(run, device) / count

    tasks = [
        steps(sizes.trunk_steps, lambda number: recomputed_step(phase, trunk, bank, number)),
        steps(sizes.ae_steps, lambda number: phase.step(0, number)),
    ]
    label = f"{part.name} on {device}, recomputed | cached"
    theirs, mine = alternate(label, tasks, context.repeats, warm_up=1)
    batch, rates = phase.per_group * phase.num_groups, context.rates_of(device)
    floor = rates.operations(batch * reconstruction_operations(phase.model, phase.learn))
    floor += rates.traffic(adam_traffic(phase.model, phase.learn))
    who = f"{sizes.trunk} in each step"
    row = Row(
        SUBJECT, f"{part.name}, one step of {batch}", device,
        Measured(tuple(theirs), "s", who).scaled(1e3, "ms"),
        Measured(tuple(mine), "s").scaled(1e3, "ms"), 1e3 * floor,
        "operations of the heads and Adam's traffic",
        "torchreid has no such stage: compared with the same step on the same batch by the same "
        f"frozen trunk (folded, channels_last), run on {sizes.height} × {sizes.width} images "
        "decoded before",
    )  # fmt: skip
    return row, phase


def _whole(rows: Sequence[Row], steps: Sequence[int], fill: Measured, device: str) -> Row:
    """All steps of stages 2 and 3 at Market size, from the measured ones."""
    totals = []
    for side in ("stock", "ours"):
        medians = [cast(Measured, getattr(row, side)).median / 1e3 for row in rows]
        totals.append(sum(m * n for m, n in zip(medians, steps, strict=True)))
    theirs, mine = totals
    passes = 2 * fill.median * MARKET
    return Row(
        SUBJECT, f"stages 2 and 3 (cam) whole, {MARKET:,} source and target images each", device,
        Measured((theirs,), "s", "the trunk in each step"), Measured((mine + passes,), "s"),
        note=f"scaled from the steps above by the default epochs ({sum(steps):,} steps), not run. "
        f"Ours includes the {passes:,.0f} s that fill both banks with two views of each image; "
        f"without them it is {theirs / mine:,.0f} times faster",
    )  # fmt: skip


def _rows(context: Context, device: str) -> list[Row]:
    sizes = context.sizes
    model = build_model(sizes).to(device)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    records = read_records(context.crops(IMAGES, 1, 1), "train")
    bank = store.images(records, "crops")
    filled = seconds(lambda: store.features(model.trunk, records, "crops"), device) / len(records)
    trunk = fuse_for_inference(model.trunk)
    rows, steps = [], []
    for part in _parts(context, device, model, store):
        row, phase = _compare(context, device, part, trunk, bank)
        rows.append(row)
        batch = phase.per_group * phase.num_groups
        steps.append(part.epochs * (MARKET // batch))
    return [*rows, _whole(rows, steps, Measured((filled,), "s"), device)]


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    what = "stages 2 and 3, cached features"
    return context.on_each_device(SUBJECT, what, lambda device: _rows(context, device))
