"""torchreid's own training (loss.name softmax or triplet) on any of its models, or EmbAE's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.evaluation.score_table import score_row, score_table, write_results
from embae_plugin.models.weight_files import few, read_file, read_state
from embae_plugin.settings.config import (
    engine_run_kwargs,
    imagedata_kwargs,
    lr_scheduler_kwargs,
    optimizer_kwargs,
)
from embae_plugin.training.run_identity import load_weights

logger = logging.getLogger(__name__)


def run_stock(cfg: CfgNode) -> None:
    """What torchreid's ``scripts/main.py`` does with this configuration.

    Raises:
        ValueError: a loss or model that torchreid does not have.
    """
    if cfg.loss.name not in ("softmax", "triplet") or cfg.data.type != "image":
        raise ValueError(f"loss.name {cfg.loss.name!r} with data.type {cfg.data.type!r}: loss.name "
                         "must be embae, softmax or triplet, data.type image")
    names = sorted(bridge.model_table())
    if cfg.model.name not in names:
        raise ValueError(f"model.name {cfg.model.name!r} is unknown; there are {', '.join(names)}")
    bridge.set_random_seed(cfg.train.seed)
    use_gpu = bool(cfg.use_gpu) and torch.cuda.is_available()
    datamanager = bridge.build_datamanager(**{**imagedata_kwargs(cfg), "use_gpu": use_gpu})
    model = bridge.build_model(
        name=cfg.model.name, num_classes=datamanager.num_train_pids, loss=cfg.loss.name,
        pretrained=cfg.model.pretrained, use_gpu=use_gpu,
    )
    if cfg.model.load_weights:
        load_matching(model, cfg.model.load_weights)
    model = torch.nn.DataParallel(model).cuda() if use_gpu else model
    optimizer = bridge.build_optimizer(model, **optimizer_kwargs(cfg))
    scheduler = bridge.build_lr_scheduler(optimizer, **lr_scheduler_kwargs(cfg))
    settings = engine_run_kwargs(cfg)
    if cfg.model.resume:
        settings["start_epoch"] = _resume(cfg.model.resume, model, optimizer, scheduler)
    softmax = cfg.loss.name == "softmax"
    engine_class = bridge.ImageSoftmaxEngine if softmax else bridge.ImageTripletEngine
    engine = engine_class(
        datamanager, model, optimizer=optimizer, scheduler=scheduler, use_gpu=use_gpu,
        label_smooth=cfg.loss.softmax.label_smooth, **({} if softmax else cfg.loss.triplet),
    )
    torch.backends.cudnn.benchmark = use_gpu  # as torchreid's script has it
    with bridge.quiet(logging.INFO):  # torchreid prints losses and scores
        engine.run(**settings)
    _write_results(cfg, engine, datamanager.test_loader)


@torch.no_grad()
def _write_results(cfg: CfgNode, engine: Any, targets: dict[str, Any]) -> None:
    """The scores of the last weights on each target by both protocols, as results.json."""
    normalize = cfg.test.normalize_feature or cfg.test.dist_metric == "cosine"
    about = {"sources": list(cfg.data.sources), "seed": cfg.train.seed}
    engine.set_model_mode("eval")
    for target, loaders in targets.items():
        parts: list[list[Any]] = []
        for name in ("query", "gallery"):
            columns: list[list[torch.Tensor]] = [[], [], []]  # embeddings, identities, cameras
            for images, *labels in map(engine.parse_data_for_eval, loaders[name]):
                z = engine.extract_features(images.cuda() if engine.use_gpu else images)
                for column, values in zip(columns, (z.float().cpu(), *labels), strict=True):
                    column.append(torch.as_tensor(values))
            z, *numbers = map(torch.cat, columns)
            parts.append([F.normalize(z, dim=1) if normalize else z, *numbers])
        (q, q_pids, q_cams), (g, g_pids, g_cams) = parts
        scores = evaluate_embeddings(q, g, q_pids, g_pids, q_cams, g_cams)
        row = score_row(cfg.model.name, scores, list(cfg.test.ranks))
        name = f"results_{target}.json" if len(targets) > 1 else "results.json"
        path = Path(cfg.data.save_dir) / name
        write_results(path, target, [row], **about)
        logger.info("%s, by both protocols: %s\n%s", target, path, score_table([row]))


def load_matching(model: torch.nn.Module, path: str) -> None:
    """Loads the weights whose names and shapes match, as torchreid does, and names the others.

    So a classifier for other people is left out, and the rest of the network is kept.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_state`; also where nothing matches.
    """
    state, own = read_state(path), model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise ValueError(f"model.load_weights: nothing in {path} fits this model")
    model.load_state_dict({**own, **fitting})
    if left := {*state, *own} - set(fitting):
        logger.warning("%s: %d weights loaded; not in both, or of another shape: %s", path,
                       len(fitting), few(sorted(left)))


def _resume(path: str, model: Any, optimizer: Any, scheduler: Any) -> int:
    """torchreid's ``resume_from_checkpoint``, which cannot read its own files on torch ≥ 2.6."""
    state = read_file(path)
    needed = {"state_dict", "optimizer", "scheduler", "epoch"}
    if not isinstance(state, dict) or not needed <= set(state):
        raise ValueError(f"model.resume: {path} is not a torchreid checkpoint")
    load_weights(getattr(model, "module", model), path)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    logger.info("resuming from %s after epoch %d", path, state["epoch"])
    return int(state["epoch"])
