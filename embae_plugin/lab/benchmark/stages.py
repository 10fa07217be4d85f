"""Stages 2 and 3 on cached features, against the trunk in each step, and a target end to end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch

from embae_plugin.data.augment import flip, normalise
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.image_bank import ImageBank
from embae_plugin.lab.benchmark.context import Context, read_data
from embae_plugin.lab.benchmark.machine import Rates, operations_of
from embae_plugin.lab.benchmark.measure import Measured, Row, alternate, seconds
from embae_plugin.lab.benchmark.ranking_speed import PRODUCT, product_floor
from embae_plugin.lab.benchmark.stock_torchreid import NORM, build_model
from embae_plugin.lab.benchmark.training_speed import forward_operations
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.reconstruction_phase import ReconstructionPhase
from embae_plugin.methods.transfer import ImageTransferEngine
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import Features, freeze
from embae_plugin.settings.config import get_default_config
from embae_plugin.training.scoring import score_model

IMAGES = 1024  # that batches are drawn from: four of them
MARKET = 12_936  # training images of Market-1501
AGAINST = "the trunk in each step"
Phases = list[ReconstructionPhase]


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


def _started(phase: ReconstructionPhase) -> ReconstructionPhase:
    phase.start()
    phase.start_epoch(0)
    return phase


def step_floor(phase: ReconstructionPhase, rates: Rates) -> float:
    """Seconds for a step's operations and Adam's traffic; the phase has been started.

    Adam reads weight, gradient and both moments, and writes all but the gradient.
    """
    learned = sum(p.numel() for p in phase.model.parameters() if p.requires_grad)
    return rates.operations(operations_of(lambda: phase.step(0, 0))) + rates.traffic(28 * learned)


def phases_of(
    context: Context, device: str, model: EmbAE, store: FeatureStore
) -> list[tuple[str, ReconstructionPhase, int]]:
    """The optimisations of stages 2 and 3: what each is, and its default epochs."""
    data = read_data(context.crops(IMAGES, 1, 1))
    embae, use_gpu = get_default_config().embae, device == "cuda"
    pretrain = ImageAutoencoderEngine(data, model, "camera", use_gpu=use_gpu, store=store)
    adapt = ImageTransferEngine(data, model, "cam", use_gpu=use_gpu, store=store)
    first, second, third = cast(Phases, [*pretrain.phases(2), *adapt.phases(2)])
    return [
        ("stage 2, an encoder per camera", first, embae.autoencoder.max_epoch),
        ("stage 3 cam, new encoders", second, embae.transfer.nuisance_epoch),
        ("stage 3 cam, embedding", third, embae.transfer.max_epoch),
    ]


def stage_rows(context: Context, device: str) -> list[Row]:
    """For each phase a step with h recomputed and one with h cached; all steps at Market size."""
    sizes, rates = context.sizes, context.rates[device]
    model = build_model(sizes).to(device)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    records = read_data(context.crops(IMAGES, 1, 1)).source
    bank = store.images(records, "crops")
    fill = seconds(lambda: store.features(model, records, "crops"), device) / len(records)
    trunk = freeze(model.trunk, (sizes.height, sizes.width), torch.device(device))

    def milliseconds(step: Callable[[int], object], count: int, epoch: int) -> float:
        """The mean over ``count`` steps in the order of an epoch."""
        taken = seconds(lambda: [step(number % epoch) for number in range(count)], device)
        return 1e3 * taken / count

    rows: list[Row] = []
    whole = np.zeros(4)  # steps, and seconds: with the trunk in each, ours, floor
    for name, phase, epochs in phases_of(context, device, model, store):
        _started(phase)
        recomputed = partial(recomputed_step, phase, trunk, bank)
        tasks = [partial(milliseconds, recomputed, sizes.trunk_steps, phase.steps),
                 partial(milliseconds, partial(phase.step, 0), sizes.ae_steps, phase.steps)]
        taken = alternate(f"{name} on {device}, recomputed | cached", tasks, context.repeats, 1)
        batch, floor = phase.per_group * phase.num_groups, step_floor(phase, rates)
        theirs, mine = Measured(taken[0], "ms", AGAINST), Measured(taken[1], "ms")
        rows.append(Row(
            "stages", f"{name}, one step", device, theirs, mine, 1e3 * floor,
            "operations of the heads and Adam's traffic",
            "torchreid has no such stage: this is the same step on the same batch by the same "
            "frozen trunk, made ready for inference, on images decoded before",
            f"batches of {batch} from 6 cameras, {sizes.trunk} at {sizes.height} × {sizes.width}",
        ))
        costs = np.array([1.0, theirs.median / 1e3, mine.median / 1e3, floor])
        whole += epochs * (MARKET // batch) * costs
    steps, stock, ours, floor = whole.tolist()
    filling = 2 * MARKET * fill  # source and target, two views of each image
    floor += rates.operations(4 * MARKET * forward_operations(sizes))
    return [*rows, Row(
        "stages", f"both stages whole, {MARKET:,} source and {MARKET:,} target images", device,
        Measured((stock,), "s", AGAINST), Measured((ours + filling,), "s"), floor,
        "the floors above times the steps, and the trunk's operations for filling the bank",
        f"scaled from the steps above by the default epochs ({steps:,.0f} steps), not "
        f"run. Ours includes the {filling:,.0f} s that fill the bank with two views of each image; "
        f"without them it is {stock / ours:,.0f} times faster", rows[0].size,
    )]


def adaptation_rows(context: Context, device: str) -> list[Row]:
    """The whole way of a target: files, features, adaptation by ``cam``, scores."""
    sizes, rates = context.sizes, context.rates[device]
    node = get_default_config().embae.transfer
    images, queries, gallery = sizes.target
    data = read_data(context.crops(*sizes.target))
    model = build_model(sizes).to(device)
    store = FeatureStore(sizes.height, sizes.width, NORM, NORM, device)
    splits = [one for one in (data.target_train, data.query, data.gallery) if one is not None]
    engine = ImageTransferEngine(
        data, model, "cam", nuisance_epoch=node.nuisance_epoch, lr=node.lr,
        nuisance_lr=node.nuisance_lr, final_lr=node.final_lr, batch_size=node.batch_size,
        use_gpu=device == "cuda", store=store,
    )
    folder = context.folder / f"adaptation-{device}"
    decoded, extracted, adapted, scored = (seconds(work, device) for work in (
        lambda: [store.images(split, "target") for split in splits],
        lambda: [store.features(model, split, "target") for split in splits],
        lambda: engine.run(save_dir=folder, max_epoch=node.max_epoch),
        lambda: score_model(model, store, splits[1], splits[2]),
    ))
    stage_3 = sum(phase.epochs * phase.steps * step_floor(_started(phase), rates)
                  for phase in cast(Phases, engine.phases(node.max_epoch)))
    trunk = rates.operations(2 * sum(sizes.target) * forward_operations(sizes))
    parts = [
        ("JPEG files decoded and resized", decoded, 0.0, ""),
        ("trunk features, two views", extracted, trunk, "the trunk's operations"),
        (f"stage 3 cam, {node.nuisance_epoch} + {node.max_epoch} epochs", adapted, stage_3,
         "operations of the heads, Adam's traffic"),
        ("scores, both protocols", scored, product_floor(context, device, queries, gallery),
         PRODUCT),
    ]
    row = partial(Row, "adaptation", device=device, size=f"{images:,} images to adapt to, "
                  f"{queries:,} queries and {gallery:,} gallery images, {sizes.trunk} at "
                  f"{sizes.height} × {sizes.width}")
    rows = [row(what, ours=Measured((took,), "s"), floor=floor or None, floor_text=text)
            for what, took, floor, text in parts]
    return [*rows, row(
        "all of it", ours=Measured((sum(part[1] for part in parts),), "s"),
        floor=sum(part[2] for part in parts), floor_text="the sum of the floors above",
        note="run once. torchreid has nothing that adapts without labels. The model comes from "
        "stages 1 and 2, which need no target (here it has random weights: the time is the same)",
    )]
