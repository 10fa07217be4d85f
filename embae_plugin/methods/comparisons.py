"""The methods that EmbAE is compared with, run beside it from the same configuration.

Each is a function of a run that returns its rows of scores; ``embae.variants`` names those wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from embae_plugin.evaluation.score_table import Row
from embae_plugin.methods import past_the_paper as beyond
from embae_plugin.methods.adversarial import ImageAdversarialEngine
from embae_plugin.methods.pul import ImagePULEngine
from embae_plugin.methods.softmax import ImageIdentificationEngine
from embae_plugin.models.embae import EmbAE

if TYPE_CHECKING:
    from embae_plugin.methods.pipeline import Run


def adversarial(run: Run) -> list[Row]:
    """The adversarial autoencoder on the sources, from stage 1's embedding: row ``aae``."""
    cfg, node = run.cfg, run.cfg.embae.adversarial
    model = run.stage(
        ImageAdversarialEngine, run.model, node.max_epoch,
        **{key: value for key, value in node.items() if key != "max_epoch"},
        soft_margin=cfg.embae.embedding.soft_margin, margin=cfg.loss.triplet.margin,
        batch_size=cfg.train.batch_size, num_instances=cfg.sampler.num_instances,
    )  # fmt: skip
    return [run.score("aae", model)]


def pul(run: Run) -> list[Row]:
    """PUL on stage 1's embedding: row ``pul``; on its own baseline: ``pul-baseline`` too."""
    node = run.cfg.embae.pul
    learning: dict[str, Any] = {
        **{key: node[key] for key in ("lr", "momentum", "batch_size", "dropout", "heads_only")},
        "precision": run.cfg.embae.embedding.precision,
    }
    rows: list[Row] = []
    base: EmbAE = run.model
    if node.base == "softmax":
        untrained = EmbAE.of_trunk(run.new_model().trunk)
        base = run.stage(ImageIdentificationEngine, untrained, node.baseline_epoch, **learning)
        run.store.release_images()  # of the sources
        rows.append(run.score("pul-baseline", base))
    model = run.stage(
        ImagePULEngine, base, node.max_epoch, rounds=node.rounds, clusters=node.clusters,
        threshold=node.threshold, near_any_seed=node.near_any_seed, restart=node.restart,
        **learning,
    )  # fmt: skip
    return [*rows, run.score("pul", model)]


def past_the_paper(name: str) -> Callable[[Run], list[Row]]:
    """One row of :data:`beyond.MODELS`."""
    return lambda run: [run.score(name, beyond.model_of(run, name))]


COMPARE: dict[str, Callable[[Run], list[Row]]] = {
    "aae": adversarial,
    "pul": pul,
    **{name: past_the_paper(name) for name in beyond.MODELS},
}
STAGE_OF_ROW = {
    "aae": "adversarial",
    "pul-baseline": "identification",
    "pul": "pul",
    **beyond.STAGE_OF_ROW,
}
