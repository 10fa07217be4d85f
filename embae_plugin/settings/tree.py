"""The configuration tree: torchreid's own, plus one node, ``embae``.

torchreid keeps its tree in ``scripts/default_config.py``, which neither of its packages
installs, so the tree is written out here with torchreid's values. Whatever torchreid already
has a key for (learning rate, batch size, transforms, where to save) is read from that key; the
node ``embae`` is made of the typed settings of whatever has some (:mod:`settings.fields`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from embae_plugin.settings.fields import Settings, own_node, setting


@dataclass(frozen=True)
class ModelSettings(Settings, node=""):
    """The EmbAE model that is built."""

    trunk: str = setting("", "The trunk: a timm name or torchreid:NAME; empty for the one that "
                         "model.name implies.")
    trunk_weights: str = setting("imagenet", "Its first weights: imagenet, a local file, or empty "
                                 "for random ones.")
    z_id_dim: int = setting(128, "Width of the metric embedding.", above=0)
    z_nui_dim: int = setting(128, "Width of the nuisance code; 0 for none.", least=0)
    hidden_dim: int = setting(1024, "Units of the hidden layer of f_emb, f_nui and f_dec.", above=0)
    head_order: str = setting("relu_bn", "Order of layers in the heads (paper 4.2; bn_relu is that "
                              "of 3.2).", choices=("relu_bn", "bn_relu"))


@dataclass(frozen=True)
class StoreSettings(Settings, node=""):
    """What is kept on disk and in memory."""

    cache_dir: str = setting("", "Folder of cached features and pixels; empty: features under "
                             "data.save_dir, pixels in memory only.")
    image_memory_share: float = setting(0.5, "Share of the free memory that decoded images may "
                                        "take before they go to a file.", above=0, most=1)
    save_interval: float = setting(30.0, "Seconds between checkpoints while a stage runs; 0: after "
                                   "every epoch.", least=0)


@dataclass(frozen=True)
class TestSettings(Settings, node="test"):
    """How models are scored."""

    tta: str = setting("flip", "Test-time augmentation.", choices=("none", "flip", "ten_crop"))
    protocols: tuple[str, ...] = setting(("market", "nd"), "Protocols: torchreid's, and the one "
                                         "without the query's camera.", choices=("market", "nd"))

    def check(self) -> None:
        """See :class:`Settings`."""
        if not self.protocols:
            raise ValueError("embae.test.protocols is empty; name market, nd or both")


def _node(**values: Any) -> CfgNode:
    return CfgNode(values)


def torchreid_tree() -> CfgNode:
    """torchreid's default configuration (scripts/default_config.py), value for value."""
    cfg = CfgNode()
    cfg.use_gpu = True
    cfg.model = _node(name="resnet50", pretrained=True, load_weights="", resume="")
    cfg.data = _node(
        type="image", root="reid-data", sources=["market1501"], targets=["market1501"],
        workers=4, split_id=0, height=256, width=128, combineall=False,
        transforms=["random_flip"], k_tfm=1, norm_mean=[0.485, 0.456, 0.406],
        norm_std=[0.229, 0.224, 0.225], save_dir="log", load_train_targets=False,
    )
    cfg.market1501 = _node(use_500k_distractors=False)
    cfg.cuhk03 = _node(labeled_images=False, classic_split=False, use_metric_cuhk03=False)
    cfg.sampler = _node(
        train_sampler="RandomSampler", train_sampler_t="RandomSampler", num_instances=4,
        num_cams=1, num_datasets=1,
    )
    cfg.video = _node(seq_len=15, sample_method="evenly", pooling_method="avg")
    cfg.train = _node(
        optim="adam", lr=0.0003, weight_decay=5e-4, max_epoch=60, start_epoch=0, batch_size=32,
        fixbase_epoch=0, open_layers=["classifier"], staged_lr=False, new_layers=["classifier"],
        base_lr_mult=0.1, lr_scheduler="single_step", stepsize=[20], gamma=0.1, print_freq=20,
        seed=1,
    )
    cfg.sgd = _node(momentum=0.9, dampening=0.0, nesterov=False)
    cfg.rmsprop = _node(alpha=0.99)
    cfg.adam = _node(beta1=0.9, beta2=0.999)
    cfg.loss = _node(name="softmax")
    cfg.loss.softmax = _node(label_smooth=True)
    cfg.loss.triplet = _node(margin=0.3, weight_t=1.0, weight_x=0.0)
    cfg.test = _node(
        batch_size=100, dist_metric="euclidean", normalize_feature=False, ranks=[1, 5, 10, 20],
        evaluate=False, eval_freq=-1, start_eval=0, rerank=False, visrank=False, visrank_topk=10,
    )
    return cfg


def get_default_config() -> CfgNode:
    """torchreid's default tree plus the node ``embae`` (a fresh copy at each call)."""
    cfg = torchreid_tree()
    cfg.embae = own_node()
    return cfg


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
