"""Stages 2 and 3 on cached features, against the same steps with the trunk run again in each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from embae_plugin.data.augment import flip, normalise
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.lab.benchmark.context import Context
from embae_plugin.lab.benchmark.floors import (
    adam_traffic,
    forward_operations,
    reconstruction_operations,
)
from embae_plugin.lab.benchmark.measure import Measured, Row, Task, alternate, seconds
from embae_plugin.lab.benchmark.stock_training_speed import (
    NORM,
    build_model,
    read_data,
    read_records,
)
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase
from embae_plugin.methods.transfer import ImageTransferEngine
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import Features, freeze
from embae_plugin.settings.config import get_default_config

SUBJECT = "stages"
IMAGES = 1024  # that batches are drawn from: four of them
MARKET = 12_936  # training images of Market-1501


@torch.no_grad()
def recomputed_features(
    phase: ReconstructionPhase, trunk: Features, bank: ImageBank, step: int
) -> torch.Tensor:
    """What ``phase`` reads from its bank in a step, computed from the images instead."""
    rows = phase.plan[step]
    images = bank.batch(torch.div(rows, phase.views, rounding_mode="floor"))
    mirrored = rows % phase.views == 1
    batch: torch.Tensor = trunk(normalise(flip(images, mirrored), NORM, NORM))
    return batch.float()


def recomputed_step(
    phase: ReconstructionPhase, trunk: Features, bank: ImageBank, step: int
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
    context: Context, device: str, part: _Part, trunk: Features, bank: ImageBank
) -> tuple[Row, int]:
    """The row of one part: a step with h recomputed, and one with h cached; and its batch."""
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
    row = Row(
        SUBJECT, f"{part.name}, one step", device,
        Measured(tuple(theirs), "s", "the trunk in each step").scaled(1e3, "ms"),
        Measured(tuple(mine), "s").scaled(1e3, "ms"), 1e3 * floor,
        "operations of the heads and Adam's traffic",
        "torchreid has no such stage: this is the same step on the same batch by the same frozen "
        "trunk, made ready for inference, on images decoded before",
        f"batches of {batch} from 6 cameras, {sizes.trunk} at {sizes.height} × {sizes.width}",
    )  # fmt: skip
    return row, batch


def _whole(context: Context, rows: Sequence[Row], steps: Sequence[int], fill: float) -> Row:
    """All steps of stages 2 and 3 at Market size, from the measured ones.

    Args:
        rows: one for each part; steps: how many it takes.
        fill: seconds per image in which the bank is filled.
    """
    device, sizes, images = rows[0].device, context.sizes, 2 * MARKET  # source and target
    counted = list(zip(rows, steps, strict=True))
    theirs = sum(row.stock.median * count for row, count in counted if row.stock) / 1e3
    mine = sum(row.ours.median * count for row, count in counted if row.ours) / 1e3
    forward = forward_operations(build_model(sizes), sizes.height, sizes.width)
    floor = sum((row.floor or 0.0) * count for row, count in counted) / 1e3
    floor += context.rates_of(device).operations(2 * images * forward)
    return Row(
        SUBJECT, f"both stages whole, {MARKET:,} source and {MARKET:,} target images", device,
        Measured((theirs,), "s", "the trunk in each step"), Measured((mine + fill * images,), "s"),
        floor, "the floors above times the steps, and the trunk's operations for filling the bank",
        f"scaled from the steps above by the default epochs ({sum(steps):,} steps), not run. Ours "
        f"includes the {fill * images:,.0f} s that fill the bank with two views of each image; "
        f"without them it is {theirs / mine:,.0f} times faster", rows[0].size,
    )  # fmt: skip


def _rows(context: Context, device: str) -> list[Row]:
    sizes = context.sizes
    model = build_model(sizes).to(device)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    records = read_records(context.crops(IMAGES, 1, 1), "train")
    bank = store.images(records, "crops")
    fill = seconds(lambda: store.features(model, records, "crops"), device) / len(records)
    trunk = freeze(model.trunk, (sizes.height, sizes.width), torch.device(device))
    rows, steps = [], []
    for part in _parts(context, device, model, store):
        row, batch = _compare(context, device, part, trunk, bank)
        rows.append(row)
        steps.append(part.epochs * (MARKET // batch))
    return [*rows, _whole(context, rows, steps, fill)]


def measure(context: Context) -> list[Row]:
    """The rows of this subject."""
    return context.on_each_device(SUBJECT, "stages 2 and 3", lambda device: _rows(context, device))
