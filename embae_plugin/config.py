"""The configuration: torchreid's own yacs tree, plus one node, ``embae``.

torchreid keeps its tree in ``scripts/default_config.py``, which neither of its packages
installs, so the tree is written out here with torchreid's values. Whatever torchreid already
has a key for (learning rate, batch size, transforms, where to save) is read from that key; the
node ``embae`` holds only what torchreid has no word for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from embae_plugin.config_files import find_config


STAGES = ("embedding", "autoencoder", "transfer")
VARIANTS = ("baseline", "all", "fix", "new", "dataset", "cam")


def _node(**values: Any) -> CfgNode:
    node = CfgNode()
    for key, value in values.items():
        node[key] = value
    return node


def _torchreid_tree() -> CfgNode:
    """torchreid's default configuration (scripts/default_config.py), value for value."""
    cfg = CfgNode()
    cfg.use_gpu = True
    cfg.model = _node(name="resnet50", pretrained=True, load_weights="", resume="")
    cfg.data = _node(
        type="image", root="reid-data", sources=["market1501"], targets=["market1501"],
        workers=4, split_id=0, height=256, width=128, combineall=False,
        transforms=["random_flip"], k_tfm=1, norm_mean=[0.485, 0.456, 0.406],
        norm_std=[0.229, 0.224, 0.225], save_dir="log", load_train_targets=False,
    )  # fmt: skip
    cfg.market1501 = _node(use_500k_distractors=False)
    cfg.cuhk03 = _node(labeled_images=False, classic_split=False, use_metric_cuhk03=False)
    cfg.sampler = _node(
        train_sampler="RandomSampler", train_sampler_t="RandomSampler", num_instances=4,
        num_cams=1, num_datasets=1,
    )  # fmt: skip
    cfg.video = _node(seq_len=15, sample_method="evenly", pooling_method="avg")
    cfg.train = _node(
        optim="adam", lr=0.0003, weight_decay=5e-4, max_epoch=60, start_epoch=0, batch_size=32,
        fixbase_epoch=0, open_layers=["classifier"], staged_lr=False, new_layers=["classifier"],
        base_lr_mult=0.1, lr_scheduler="single_step", stepsize=[20], gamma=0.1, print_freq=20,
        seed=1,
    )  # fmt: skip
    cfg.sgd = _node(momentum=0.9, dampening=0.0, nesterov=False)
    cfg.rmsprop = _node(alpha=0.99)
    cfg.adam = _node(beta1=0.9, beta2=0.999)
    cfg.loss = _node(name="softmax")
    cfg.loss.softmax = _node(label_smooth=True)
    cfg.loss.triplet = _node(margin=0.3, weight_t=1.0, weight_x=0.0)
    cfg.test = _node(
        batch_size=100, dist_metric="euclidean", normalize_feature=False, ranks=[1, 5, 10, 20],
        evaluate=False, eval_freq=-1, start_eval=0, rerank=False, visrank=False, visrank_topk=10,
    )  # fmt: skip
    return cfg


def _embae_node() -> CfgNode:
    """EmbAE's own settings; the defaults are the paper's."""
    node = CfgNode()
    node.trunk = ""  # "": the trunk that model.name implies; else a timm name or torchreid:NAME
    node.trunk_weights = "imagenet"  # imagenet | a local file | "" for random weights
    node.z_id_dim = 128  # width of the metric embedding
    node.z_nui_dim = 128  # width of the nuisance code
    node.hidden_dim = 1024  # units of the hidden layer of f_emb, f_nui and f_dec
    node.head_order = "relu_bn"  # paper 4.2; bn_relu is the order of 3.2
    node.stages = list(STAGES)
    node.variants = list(VARIANTS)
    node.cache_dir = ""  # "": features are kept under data.save_dir, pixels in memory only
    node.image_memory_share = 0.5  # of the free memory, before decoded images go to a file
    node.save_interval = 30.0  # seconds between checkpoints while a stage runs; 0: every epoch
    node.embedding = _node(
        soft_margin=True,  # False: a hinge with loss.triplet.margin
        dataset_choice="proportional",  # how a batch's dataset is drawn; or uniform
        constant_epochs=100,  # with train.lr_scheduler exponential: epochs at train.lr ...
        final_lr=1e-7,  # ... then exponential decay to this at the last epoch
        precision="auto",  # auto | float32 | bf16
        step="auto",  # auto | eager | graph (one captured CUDA graph)
    )
    node.autoencoder = _node(max_epoch=40, lr=1e-3, final_lr=1e-5, batch_size=256)
    node.transfer = _node(
        nuisance_epoch=20,  # step 1 of new, dataset and cam: a new f_nui alone
        nuisance_lr=1e-3,
        max_epoch=10,  # the step that learns f_emb
        lr=1e-4,
        final_lr=1e-6,
        batch_size=256,
    )
    node.test = _node(tta="flip", protocols=["market", "nd"])  # tta: none | flip | ten_crop
    return node


def get_default_config() -> CfgNode:
    """torchreid's default tree plus the node ``embae`` (a fresh copy at each call)."""
    cfg = _torchreid_tree()
    cfg.embae = _embae_node()
    return cfg


def _flat_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += _flat_keys(value, f"{name}.") if isinstance(value, CfgNode) else [name]
    return keys


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """The configuration as one plain dictionary, ``{"train.lr": 0.0003, …}``."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = list(value) if isinstance(value, (list, tuple)) else value
    return flat


def _refuse_unknown(keys: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where}: there is no configuration key {key!r}.{hint}")


def load_config(
    config_file: str | Path = "", options: Sequence[str] = (), base: CfgNode | None = None
) -> CfgNode:
    """Default tree, then a yaml file, then ``key value`` pairs from the command line.

    Args:
        config_file: a yaml file; ``""`` for none. A key ``_BASE_: other.yaml`` (relative to the
            file) is merged first, so that configurations can stay small.
        options: alternating keys and values, as torchreid's scripts take them.
        base: the tree to start from instead of the defaults.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a key that does not exist, a value of another type, or an odd option list.
    """
    cfg = get_default_config() if base is None else base.clone()
    if config_file:
        _merge_file(cfg, find_config(str(config_file)))
    if len(options) % 2:
        raise ValueError(
            "options after the flags come in pairs 'key value'; the last one, "
            f"{options[-1]!r}, has no value"
        )
    _refuse_unknown(options[0::2], _flat_keys(cfg), "command line")
    try:
        cfg.merge_from_list(list(options))
    except ValueError as error:
        raise ValueError(f"command line: {error}") from None
    return cfg


def _merge_file(cfg: CfgNode, path: Path, seen: tuple[Path, ...] = ()) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path} does not exist")
    if path.resolve() in seen:
        raise ValueError(f"{path}: its _BASE_ files name each other in a circle")
    try:
        with path.open(encoding="utf-8") as stream:
            loaded = CfgNode.load_cfg(stream)
    except Exception as error:
        raise ValueError(f"{path}: not a readable yaml configuration ({error})") from None
    base = loaded.pop("_BASE_", "")
    if base:
        _merge_file(cfg, path.parent / base, (*seen, path.resolve()))
    _refuse_unknown(_flat_keys(loaded), _flat_keys(cfg), str(path))
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_choice(cfg: CfgNode, key: str, allowed: Sequence[str]) -> None:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    for value in node if isinstance(node, (list, tuple)) else [node]:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        _check(value in allowed, f"{key}: {value!r} is not one of {', '.join(allowed)}{hint}")


def check_config(cfg: CfgNode) -> None:
    """Refuses what cannot work before anything is loaded.

    Raises:
        ValueError: names the key, its value and what would be right.
    """
    embae = cfg.embae
    _check_choice(cfg, "embae.stages", STAGES)
    _check_choice(cfg, "embae.variants", VARIANTS)
    _check_choice(cfg, "embae.head_order", ("relu_bn", "bn_relu"))
    _check_choice(cfg, "embae.test.tta", ("none", "flip", "ten_crop"))
    _check_choice(cfg, "embae.test.protocols", ("market", "nd"))
    _check_choice(cfg, "embae.embedding.dataset_choice", ("proportional", "uniform"))
    _check_choice(cfg, "embae.embedding.precision", ("auto", "float32", "bf16"))
    _check_choice(cfg, "embae.embedding.step", ("auto", "eager", "graph"))
    positive = (
        "embae.z_id_dim embae.hidden_dim data.height data.width train.batch_size test.batch_size "
        "sampler.num_instances embae.autoencoder.batch_size embae.transfer.batch_size "
        "train.lr embae.embedding.final_lr "
        "embae.autoencoder.lr embae.autoencoder.final_lr embae.transfer.lr embae.transfer.nuisance_lr embae.transfer.final_lr"
    ).split()
    not_negative = (
        "train.max_epoch embae.z_nui_dim embae.autoencoder.max_epoch embae.transfer.max_epoch "
        "embae.transfer.nuisance_epoch embae.embedding.constant_epochs embae.save_interval"
    ).split()
    flat = flatten(cfg)
    for key in positive:
        _check(flat[key] > 0, f"{key} is {flat[key]}; it must be greater than 0")
    for key in not_negative:
        _check(flat[key] >= 0, f"{key} is {flat[key]}; it must not be negative")
    share = embae.image_memory_share
    _check(0 < share <= 1, f"embae.image_memory_share is {share}; it is a share, 0 to 1")
    batch, instances = cfg.train.batch_size, cfg.sampler.num_instances
    _check(
        batch % instances == 0 or cfg.loss.name != "embae",
        f"train.batch_size is {batch}, which sampler.num_instances (K = {instances}) does not "
        f"divide; {batch - batch % instances} or {batch + instances - batch % instances} would do",
    )
    if cfg.loss.name == "embae":
        _check_embae_run(cfg)


def _check_embae_run(cfg: CfgNode) -> None:
    sources, targets = list(cfg.data.sources), list(cfg.data.targets)
    _check(bool(sources), "data.sources is empty; name at least one labelled dataset")
    _check(cfg.data.type == "image", "loss.name embae works on images; data.type is 'video'")
    _check(
        cfg.model.name.startswith("embae_"),
        f"loss.name embae needs an EmbAE model, model.name is {cfg.model.name!r}; for example "
        "model.name embae_mobilenetv1",
    )
    if "transfer" in cfg.embae.stages:
        _check(
            len(targets) == 1,
            f"EmbAE adapts to one target in a run, data.targets has {len(targets)}: "
            f"{', '.join(targets)}; run once for each",
        )
        both = sorted(set(sources) & set(targets))
        _check(not both, f"{', '.join(both)} is both a source and the target; the target must "
               "be other cameras than those the model learned on")  # fmt: skip
    for key, value in (
        ("test.rerank", cfg.test.rerank),
        ("test.visrank", cfg.test.visrank),
        ("cuhk03.use_metric_cuhk03", cfg.cuhk03.use_metric_cuhk03),
    ):
        _check(not value, f"{key} is torchreid's own and not part of loss.name embae; use "
               "loss.name triplet for it")  # fmt: skip
    _check_choice(cfg, "test.dist_metric", ("euclidean", "cosine"))
    _check(cfg.train.optim == "adam" or cfg.embae.embedding.step != "graph",
           "embae.embedding.step graph works with train.optim adam only")  # fmt: skip


def imagedata_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``torchreid.data.ImageDataManager``, as torchreid's scripts make them."""
    return {
        "root": cfg.data.root,
        "sources": list(cfg.data.sources),
        "targets": list(cfg.data.targets),
        "height": cfg.data.height,
        "width": cfg.data.width,
        "transforms": list(cfg.data.transforms),
        "k_tfm": cfg.data.k_tfm,
        "norm_mean": list(cfg.data.norm_mean),
        "norm_std": list(cfg.data.norm_std),
        "use_gpu": cfg.use_gpu,
        "split_id": cfg.data.split_id,
        "combineall": cfg.data.combineall,
        "load_train_targets": cfg.data.load_train_targets,
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        "workers": cfg.data.workers,
        "num_instances": cfg.sampler.num_instances,
        "num_cams": cfg.sampler.num_cams,
        "num_datasets": cfg.sampler.num_datasets,
        "train_sampler": cfg.sampler.train_sampler,
        "train_sampler_t": cfg.sampler.train_sampler_t,
        **zoo_kwargs(cfg),
    }


def zoo_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """What torchreid's dataset classes are told besides root and mode."""
    return {
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }


def optimizer_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``torchreid.optim.build_optimizer``."""
    return {
        "optim": cfg.train.optim,
        "lr": cfg.train.lr,
        "weight_decay": cfg.train.weight_decay,
        "momentum": cfg.sgd.momentum,
        "sgd_dampening": cfg.sgd.dampening,
        "sgd_nesterov": cfg.sgd.nesterov,
        "rmsprop_alpha": cfg.rmsprop.alpha,
        "adam_beta1": cfg.adam.beta1,
        "adam_beta2": cfg.adam.beta2,
        "staged_lr": cfg.train.staged_lr,
        "new_layers": list(cfg.train.new_layers),
        "base_lr_mult": cfg.train.base_lr_mult,
    }


def lr_scheduler_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``torchreid.optim.build_lr_scheduler``."""
    return {
        "lr_scheduler": cfg.train.lr_scheduler,
        "stepsize": list(cfg.train.stepsize),
        "gamma": cfg.train.gamma,
        "max_epoch": cfg.train.max_epoch,
    }


def engine_run_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of torchreid's ``Engine.run``."""
    return {
        "save_dir": cfg.data.save_dir,
        "max_epoch": cfg.train.max_epoch,
        "start_epoch": cfg.train.start_epoch,
        "fixbase_epoch": cfg.train.fixbase_epoch,
        "open_layers": list(cfg.train.open_layers),
        "start_eval": cfg.test.start_eval,
        "eval_freq": cfg.test.eval_freq,
        "test_only": cfg.test.evaluate,
        "print_freq": cfg.train.print_freq,
        "dist_metric": cfg.test.dist_metric,
        "normalize_feature": cfg.test.normalize_feature,
        "visrank": cfg.test.visrank,
        "visrank_topk": cfg.test.visrank_topk,
        "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
        "ranks": list(cfg.test.ranks),
        "rerank": cfg.test.rerank,
    }
