"""One run from a configuration: the stages, the variants side by side, their scores.

Each stage leaves a checkpoint under ``data.save_dir`` and starts from the one before it, so the
same command, given again, goes on where it was stopped and repeats nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from yacs.config import CfgNode

from embae_plugin import distributed
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.augment import unsupported_transforms
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ReIDData, load_data
from embae_plugin.evaluation.score_table import Row, score_row
from embae_plugin.losses import Bottleneck
from embae_plugin.methods.autoencoder import ImageAutoencoderEngine
from embae_plugin.methods.comparisons import COMPARE, STAGE_OF_ROW
from embae_plugin.methods.embedding import ImageEmbeddingEngine, paper_adam
from embae_plugin.methods.past_the_paper import STAGE_OF_VIEW, in_the_way_of
from embae_plugin.methods.transfer import VARIANTS, ImageTransferEngine
from embae_plugin.models.dense import DenseHead
from embae_plugin.models.door import open_model, open_network
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.factories import TRUNK_OF_MODEL
from embae_plugin.models.trunks import build_trunk
from embae_plugin.settings.config import imagedata_kwargs, lr_scheduler_kwargs, optimizer_kwargs
from embae_plugin.training.run_identity import load_checkpoint, load_weights
from embae_plugin.training.schedule import seeded
from embae_plugin.training.scoring import score_model

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=EmbAE)

# Rows of results and the stages whose models they score.
STAGES = {"baseline": "embedding", **{v: f"transfer-{v}" for v in VARIANTS}, **STAGE_OF_ROW}


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
    bridge.set_random_seed(cfg.train.seed)  # samplers take their seed from torch when they are made
    with bridge.quiet():
        return ReIDData.from_datamanager(bridge.build_datamanager(**kwargs))


class Run:
    """The stages of one configuration; data, banks and features are shared by all of them.

    Args:
        cfg: a checked configuration.
        writer: a TensorBoard writer, or None.
    """

    def __init__(self, cfg: CfgNode, writer: Any = None) -> None:
        self.cfg, self.writer = cfg, writer
        self.bottleneck = Bottleneck(**cfg.embae.nuisance)
        self.save_dir = Path(cfg.data.save_dir)
        self.use_gpu = bool(cfg.use_gpu) and torch.cuda.is_available()
        device = "cuda" if self.use_gpu else "cpu"
        with distributed.rank_zero_first():  # which may fetch weights
            self.model: EmbAE = self.new_model().to(device)
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
        self.shared: dict[str, Any] = {}  # what several comparisons of this run start from
        self.seconds: dict[str, float] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}

    def _normalise_for_the_trunk(self) -> None:
        """Images are normalised as the trunk's weights expect, unless something else is set."""
        trunk, data = self.model.trunk, self.cfg.data
        data.norm_mean = list(data.norm_mean) or list(trunk.norm_mean)
        data.norm_std = list(data.norm_std) or list(trunk.norm_std)
        wanted = (tuple(trunk.norm_mean), tuple(trunk.norm_std))
        if wanted != (tuple(data.norm_mean), tuple(data.norm_std)):
            logger.warning(
                "data.norm_mean %s and norm_std %s are not what the weights of %s were trained "
                "with: %s and %s", *(list(v) for v in (data.norm_mean, data.norm_std)),
                trunk.name, *(list(v) for v in wanted))  # fmt: skip

    def new_model(self) -> EmbAE:
        """The model with its stage 1 starting weights, on the CPU."""
        return build_model(self.cfg)

    def _engine_settings(self) -> dict[str, Any]:
        return {"use_gpu": self.use_gpu, "seed": self.cfg.train.seed, "store": self.store}

    def _run(self, engine: Any, max_epoch: int, **more: Any) -> None:
        engine.writer = self.writer
        start = time.monotonic()
        self.history[engine.stage] = engine.run(
            save_dir=self.save_dir, max_epoch=max_epoch, save_interval=self.cfg.embae.save_interval,
            normalize_feature=self.cfg.test.normalize_feature, tta=self.cfg.embae.test.tta,
            ranks=self.cfg.test.ranks, eval_freq=self.cfg.test.eval_freq, **more,
        )  # fmt: skip
        self.seconds[engine.stage] = time.monotonic() - start

    def embedding(self) -> None:
        """Stage 1, from the weights that ``model.load_weights`` names if it does.

        Raises:
            FileNotFoundError: stage 1 is not to be run, and there is no result of it.
        """
        cfg = self.cfg
        if cfg.model.load_weights and self.model.head == "dense":
            load_weights(self.model, cfg.model.load_weights, parts=("trunk", "f_emb"))
        if "embedding" not in cfg.embae.stages:
            if not cfg.model.load_weights:
                self.model = self._finished_embedding()
            return
        device = self.store.device
        if cfg.train.optim == "adam" and not cfg.train.staged_lr:
            optimizer: Any = paper_adam(
                self.model.parameters(), cfg.train.lr, device, cfg.train.weight_decay
            )
        else:
            optimizer = bridge.build_optimizer(self.model, **optimizer_kwargs(cfg))
        scheduler = None
        if cfg.train.lr_scheduler != "exponential":
            scheduler = bridge.build_lr_scheduler(optimizer, **lr_scheduler_kwargs(cfg))
        node = cfg.embae.embedding
        engine = ImageEmbeddingEngine(
            self.data, self.model, optimizer, scheduler, lr=cfg.train.lr, final_lr=node.final_lr,
            constant_epochs=node.constant_epochs, soft_margin=node.soft_margin,
            margin=cfg.loss.triplet.margin, batch_size=cfg.train.batch_size,
            num_instances=cfg.sampler.num_instances, dataset_choice=node.dataset_choice,
            transforms=list(cfg.data.transforms), precision=node.precision, step=node.step,
            camera_norm=node.camera_norm, **self._engine_settings(),
        )  # fmt: skip
        identity = {
            "sources": list(cfg.data.sources), "split_id": cfg.data.split_id,
            "height": cfg.data.height, "width": cfg.data.width,
            "norm_mean": list(cfg.data.norm_mean), "norm_std": list(cfg.data.norm_std),
            **{f"train.{key}": cfg.train[key] for key in ("optim", "lr", "weight_decay",
               "lr_scheduler", "gamma")}, "train.stepsize": list(cfg.train.stepsize),
        }  # fmt: skip
        self._run(engine, cfg.train.max_epoch, identity=identity)

    def _finished_embedding(self) -> EmbAE:
        model = self.finished("embedding")
        if not isinstance(model, EmbAE):
            raise FileNotFoundError(
                f"embae.stages is {self.cfg.embae.stages}, and {self.save_dir} holds no finished "
                "stage 1: add embedding to it, or name weights with model.load_weights"
            )
        return model

    def autoencoder(self, encoders: str) -> EmbAE:
        """Stage 2 with ``common``, ``dataset`` or ``camera`` encoders, on a copy of the model."""
        node = self.cfg.embae.autoencoder
        return self.stage(
            ImageAutoencoderEngine, self.model, node.max_epoch, encoders=encoders, lr=node.lr,
            final_lr=node.final_lr, batch_size=node.batch_size, bottleneck=self.bottleneck,
        )  # fmt: skip

    def transfer(self, variant: str, pretrained: EmbAE) -> EmbAE:
        """Stage 3 by one variant, on a copy of a stage 2 model."""
        node = self.cfg.embae.transfer
        return self.stage(
            ImageTransferEngine, pretrained, node.max_epoch, variant=variant,
            nuisance_epoch=node.nuisance_epoch, lr=node.lr, nuisance_lr=node.nuisance_lr,
            final_lr=node.final_lr, batch_size=node.batch_size, stop=node.stop,
            bottleneck=self.bottleneck,
        )  # fmt: skip

    def stage(
        self, engine: Callable[..., Any], model: Model, max_epoch: int, **settings: Any
    ) -> Model:
        """Runs an engine with these settings on a copy of ``model``; returns the copy."""
        copy = cast(Model, EmbAE.from_spec(model.spec()))
        copy.load_state_dict(model.state_dict())
        copy.to(self.store.device).eval()
        self._run(engine(self.data, copy, **settings, **self._engine_settings()), max_epoch)
        return copy

    def score(self, variant: str, model: EmbAE) -> Row:
        """The target's scores of a model, as a row of ``results.json``."""
        if self.data.query is None or self.data.gallery is None:
            raise ValueError("the target has no query and gallery to score on")
        cfg = self.cfg
        scores = score_model(
            model, self.store, self.data.query, self.data.gallery, cfg.embae.test.tta,
            cfg.test.normalize_feature or cfg.test.dist_metric == "cosine",
            cfg.embae.test.protocols,
        )  # fmt: skip
        return score_row(variant, scores, list(cfg.test.ranks))

    def finished(self, stage: str) -> EmbAE | None:
        """The model of a stage that this run's folder holds complete, or None."""
        path = self.save_dir / stage / "last.pth"
        if not path.is_file():
            return None
        payload = load_checkpoint(path)
        if not payload["done"]:
            return None
        model = EmbAE.from_spec(payload["spec"])
        model.load_state_dict(payload["model"])
        return model.to(self.store.device).eval()

    def train(self) -> list[Row]:
        """Runs the configured stages; returns a row of scores for each variant."""
        cfg = self.cfg
        if list(cfg.embae.variants) == ["pul"] and cfg.embae.pul.base == "softmax":
            return COMPARE["pul"](self)  # which needs no stage of EmbAE
        self.embedding()
        if "autoencoder" not in cfg.embae.stages:
            return [self.score("baseline", self.model)] if self.data.query is not None else []
        chosen: Sequence[str] = [v for v in VARIANTS if v in cfg.embae.variants]
        needed = dict.fromkeys(VARIANTS[v].encoders for v in chosen)
        autoencoders = {encoders: self.autoencoder(encoders) for encoders in needed}
        self.store.release_images()  # the sources' are not needed again, their features are kept
        if self.data.query is None:
            return []
        rows = [self.score("baseline", self.model)]
        if "transfer" in cfg.embae.stages:
            for variant in chosen:
                model = self.transfer(variant, autoencoders[VARIANTS[variant].encoders])
                rows.append(self.score(variant, model))
            for name, compare in COMPARE.items():
                rows += compare(self) if name in cfg.embae.variants else []
        return rows

    def evaluate(self) -> list[Row]:
        """Scores what was trained before: ``model.load_weights``, or this folder's checkpoints.

        Raises:
            FileNotFoundError: neither is there.
        """
        cfg = self.cfg
        if cfg.model.load_weights:
            bundle = open_model(cfg.model.load_weights, cfg.data.height, cfg.data.width)
            names = {**{stage: name for name, stage in STAGES.items()}, "network": "baseline"}
            stage = str(bundle.about.get("stage", ""))
            return [self.score(names.get(stage, stage), bundle.model.to(self.store.device))]
        rows = []
        chosen = [*cfg.embae.variants, *(["pul-baseline"] if "pul" in cfg.embae.variants else [])]
        for variant, stage in {**STAGES, **STAGE_OF_VIEW}.items():
            trained = self.finished(stage) if variant in chosen else None
            if trained is not None and variant in STAGE_OF_VIEW:
                trained = in_the_way_of(variant, trained)
            if trained is not None:
                rows.append(self.score(variant, trained))
        if not rows:
            raise FileNotFoundError(
                f"test.evaluate: {self.save_dir} holds no finished stage, and model.load_weights "
                "names no checkpoint"
            )
        return rows
