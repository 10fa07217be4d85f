"""One run from a configuration: the stages, the variants side by side, their scores.

Each stage leaves a checkpoint under ``data.save_dir`` and starts from the one before it, so the
same command, given again, goes on where it was stopped and repeats nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from yacs.config import CfgNode

from embae_plugin import distributed
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.augment import unsupported_transforms
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ReIDData, load_data
from embae_plugin.evaluation.score_table import Row as ScoreRow
from embae_plugin.evaluation.score_table import score_row
from embae_plugin.methods.registry import BASELINE, INITIAL, Row, chain, row_named, rows
from embae_plugin.methods.row_models import RowModels, shown
from embae_plugin.methods.run_settings import runs
from embae_plugin.methods.transfer import VARIANTS
from embae_plugin.models.bundle import bundle_of
from embae_plugin.models.dense import DenseHead
from embae_plugin.models.door import open_model, open_network
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.factories import TRUNK_OF_MODEL
from embae_plugin.models.trunks import build_trunk
from embae_plugin.settings.config import imagedata_kwargs
from embae_plugin.training.run_identity import load_checkpoint, load_weights
from embae_plugin.training.schedule import seeded
from embae_plugin.training.scoring import score_model

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> EmbAE:
    """The EmbAE model that a configuration describes, with its stage 1 starting weights.

    With ``model.load_weights`` of somebody else's Re-ID network it is that network.

    Raises:
        ValueError: an unknown model name, or weights of another network.
    """
    start = cfg.model.load_weights
    arch = "" if cfg.model.name in TRUNK_OF_MODEL else cfg.model.name
    network = open_network(start, arch=arch) if start else None
    if network is not None:
        return network.model
    if cfg.model.name not in TRUNK_OF_MODEL:
        names = ", ".join(TRUNK_OF_MODEL)
        raise ValueError(f"model.name {cfg.model.name!r} is not an EmbAE model; those are {names}")
    embae = cfg.embae
    weights = embae.trunk_weights if cfg.model.pretrained else ""
    if cfg.model.load_weights or cfg.test.evaluate:
        weights = weights if weights not in ("", "imagenet") else ""
    torch.manual_seed(cfg.train.seed)  # timm and torchreid draw their initial weights globally
    model = EmbAE(
        build_trunk(embae.trunk or TRUNK_OF_MODEL[cfg.model.name], weights),
        z_id_dim=embae.z_id_dim,
        z_nui_dim=embae.z_nui_dim,
        hidden_dim=embae.hidden_dim,
        order=embae.head_order,
    )
    generator = seeded(cfg.train.seed, "heads")
    cast(DenseHead, model.f_emb).reset_parameters(generator)
    model.reset_nuisance(1, generator)
    model.f_dec.reset_parameters(generator)
    return model


def build_data(cfg: CfgNode) -> ReIDData:
    """The data of a run: lists of files, or torchreid's loaders where its transforms need them."""
    if not unsupported_transforms(list(cfg.data.transforms)):
        return load_data(cfg)
    kwargs = imagedata_kwargs(cfg)
    targets = [t for t in kwargs["targets"] if t not in kwargs["sources"]]
    kwargs["load_train_targets"] = bool(targets)
    kwargs["train_sampler"] = "RandomDatasetIdentitySampler"  # P×K on this road, too
    bridge.set_random_seed(cfg.train.seed)  # samplers take their seed from torch when they are made
    with bridge.quiet():
        return ReIDData.from_datamanager(bridge.build_datamanager(**kwargs))


class Run:
    """The stages of one configuration; data, banks and features are shared by all of them.

    Args:
        cfg: a checked configuration.
        writer: a TensorBoard writer, or None.
    """

    def __init__(self, cfg: CfgNode, writer: SummaryWriter | None = None) -> None:
        self.cfg, self.writer = cfg, writer
        self.save_dir = Path(cfg.data.save_dir)
        self.use_gpu = bool(cfg.use_gpu) and torch.cuda.is_available()
        device = "cuda" if self.use_gpu else "cpu"
        with distributed.rank_zero_first():  # which may fetch weights
            self.initial = build_model(cfg).to(device)
        self._normalise_for_the_trunk()
        with distributed.rank_zero_first():  # which may draw or unpack a data set
            self.data = build_data(cfg)
        alone = distributed.size() == 1
        self.store = FeatureStore(
            cfg.data.height,
            cfg.data.width,
            cfg.data.norm_mean,
            cfg.data.norm_std,
            device,
            cache_dir=cfg.embae.cache_dir or self.save_dir / "features",
            image_cache_dir=cfg.embae.cache_dir or ("" if alone else self.save_dir / "images"),
            memory_share=cfg.embae.image_memory_share,
        )
        self.models = RowModels(cfg, self.data, self.store, self.save_dir, {}, writer=writer)

    def _normalise_for_the_trunk(self) -> None:
        """Images are normalised as the trunk's weights expect, unless something else is set."""
        trunk, data = self.initial.trunk, self.cfg.data
        data.norm_mean = list(data.norm_mean) or list(trunk.norm_mean)
        data.norm_std = list(data.norm_std) or list(trunk.norm_std)
        wanted = (tuple(trunk.norm_mean), tuple(trunk.norm_std))
        if wanted != (tuple(data.norm_mean), tuple(data.norm_std)):
            logger.warning(
                "data.norm_mean %s and norm_std %s are not what the weights of %s were trained "
                "with: %s and %s", *(list(v) for v in (data.norm_mean, data.norm_std)),
                trunk.name, *(list(v) for v in wanted))

    @property
    def model(self) -> EmbAE:
        """Stage 1's model; made at the first use."""
        return self.models.model_of(BASELINE)

    def _given(self) -> dict[str, EmbAE]:
        """The model before anything is learned; and stage 1's, where it is not to be run.

        Raises:
            FileNotFoundError: stage 1 is not to be run, and there is no result of it.
        """
        cfg, initial = self.cfg, self.initial
        if cfg.model.load_weights and initial.head == "dense":
            load_weights(initial, cfg.model.load_weights, parts=("trunk", "f_emb"))
        if "embedding" in cfg.embae.stages:
            return {INITIAL: initial}
        if cfg.model.load_weights:
            return {INITIAL: initial, BASELINE: initial}
        finished = self.finished("embedding")
        if finished is None and self._needs_baseline():
            raise FileNotFoundError(
                f"embae.stages is {cfg.embae.stages}, and {self.save_dir} holds no finished "
                "stage 1: add embedding to it, or name weights with model.load_weights"
            )
        return {INITIAL: initial, **({} if finished is None else {BASELINE: finished})}

    def _chosen(self) -> list[Row]:
        """The rows of results that are asked for and that the stages let be made, in order."""
        cfg = self.cfg
        named = [row for row in rows().values() if row.name in cfg.embae.variants]
        return [row for row in named if row.name != BASELINE and runs(row, cfg)]

    def _needs_baseline(self) -> bool:
        """Whether stage 1's model is wanted, or started from."""
        chosen = self._chosen()
        started = {step.name for row in chosen for step in chain(row.name, self.cfg)}
        return not chosen or BASELINE in {*started, *self.cfg.embae.variants}

    def score(self, variant: str, model: EmbAE) -> ScoreRow:
        """The target's scores of a model, as a row of ``results.json``."""
        if self.data.query is None or self.data.gallery is None:
            raise ValueError("the target has no query and gallery to score on")
        cfg, query, gallery = self.cfg, self.data.query, self.data.gallery
        if variant in rows() and row_named(variant).show == "unnamed":
            query, gallery = query.unnamed(), gallery.unnamed()
        scores = score_model(
            model, self.store, query, gallery, cfg.embae.test.tta,
            cfg.test.normalize_feature or cfg.test.dist_metric == "cosine",
            cfg.embae.test.protocols,
        )
        return score_row(variant, scores, list(cfg.test.ranks))

    def finished(self, stage: str) -> EmbAE | None:
        """The model of a stage that this run's folder holds complete, or None."""
        path = self.save_dir / stage / "last.pth"
        if not path.is_file():
            return None
        payload = load_checkpoint(path)
        if not payload["done"]:
            return None
        bundle = bundle_of(path, payload, *self.store.size)
        return bundle.model.to(self.store.device)

    def train(self) -> list[ScoreRow]:
        """Runs the configured stages; returns a row of scores for each variant."""
        cfg, named = self.cfg, [row_named(name) for name in self.cfg.embae.variants]
        self.models = RowModels(
            cfg, self.data, self.store, self.save_dir, self._given(), writer=self.writer
        )
        if self._needs_baseline():
            self.models.model_of(BASELINE)
        for start in dict.fromkeys(row.starts_from for row in named if row.name in VARIANTS):
            if runs(row_named(start), cfg):
                self.models.model_of(start)
        self.store.release_images()  # the sources' are not needed again, their features are kept
        if self.data.query is None:
            return []
        table = [self.score(BASELINE, self.model)] if self._needs_baseline() else []
        for row in self._chosen():
            model = self.models.model_of(row.name)
            table += [self.score(step.name, self.models.model_of(step.name))
                      for step in chain(row.name, cfg) if step.along]
            table.append(self.score(row.name, model))
        return table

    def evaluate(self) -> list[ScoreRow]:
        """Scores what was trained before: ``model.load_weights``, or this folder's checkpoints.

        Raises:
            FileNotFoundError: neither is there.
        """
        cfg = self.cfg
        if cfg.model.load_weights:
            bundle = open_model(cfg.model.load_weights, cfg.data.height, cfg.data.width)
            names = {row.folder: row.name for row in rows().values() if not row.show}
            stage = str(bundle.about.get("stage", ""))
            name = {**names, "network": BASELINE}.get(stage, stage)
            return [self.score(name, bundle.model.to(self.store.device))]
        table = []
        steps = [step for name in cfg.embae.variants for step in chain(name, cfg)]
        wanted = {*cfg.embae.variants, *(step.name for step in steps if step.along)}
        for row in rows().values():
            if not row.scored or row.name not in wanted:
                continue
            origin = row_named(row.starts_from) if row.show else row
            trained = self.finished(origin.folder)
            if trained is not None:
                model = shown(trained, row.show) if row.show else trained
                table.append(self.score(row.name, model))
        if not table:
            raise FileNotFoundError(
                f"test.evaluate: {self.save_dir} holds no finished stage, and model.load_weights "
                "names no checkpoint"
            )
        return table
