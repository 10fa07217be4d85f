"""The configuration tree: torchreid's own, plus one node, ``embae``.

torchreid keeps its tree in ``scripts/default_config.py``, which neither of its packages
installs, so the tree is written out here with torchreid's values. Whatever torchreid already
has a key for (learning rate, batch size, transforms, where to save) is read from that key; the
node ``embae`` holds only what torchreid has no word for.
"""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

STAGES = ("embedding", "autoencoder", "transfer")
VARIANTS = ("baseline", "all", "fix", "new", "dataset", "cam")
# Other methods and what goes past the paper, run where embae.variants names them.
COMPARISONS = (
    "aae", "pul", "baseline-h", "norm-heads", "norm", "norm-h", "norm-unnamed", "norm+all",
    "norm+fix", "norm+new", "norm+cam", "clusters-baseline", "clusters-heads", "clusters-cam",
    "clusters-trunk", "clusters-trunk-unnamed", "supervised-heads", "supervised",
)  # fmt: skip
ADAPT_METHODS = ("norm", "heads", "trunk", "reconstruction")
STOP_RULES = (
    "last", "effective_rank", "flip_agreement", "camera_mixing", "mutual_neighbours",
)  # fmt: skip


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
    node.z_nui_dim = 128  # width of the nuisance code; 0 for none
    node.nuisance = _node(  # what holds z_nui back in stages 2 and 3, see losses/bottleneck.py
        noise=0.0, dropout=0.0, variational=0.0, decorrelation=0.0
    )
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
        camera_norm=False,  # normalise each source camera's images in a batch by themselves
    )
    node.autoencoder = _node(max_epoch=60, lr=1e-3, final_lr=1e-5, batch_size=256)
    node.transfer = _node(
        nuisance_epoch=15,  # step 1 of new, dataset and cam: a new f_nui alone
        nuisance_lr=1e-3,
        max_epoch=15,  # the step that learns f_emb
        lr=1e-4,
        final_lr=1e-4,  # constant, so that the curve of a longer run shows any shorter one
        batch_size=256,
        stop="last",  # the epoch that is kept, or by a measure that reads no labels
    )
    node.adversarial = _node(  # aae: adversarial autoencoder and triplet loss on the sources
        max_epoch=40,
        lr=1e-4,
        final_lr=1e-6,
        triplet_weight=1.0,
        reconstruction_weight=1.0,
        adversarial_weight=1.0,
        prior_std=1.0,  # of the Gaussian priors of z_id and z_nui
    )
    node.pul = _node(  # clustering and fine-tuning (Fan et al., 2018)
        base="embedding",  # stage 1's; softmax: the article's, a trunk trained to classify
        baseline_epoch=20,  # of that training, with the settings below
        rounds=25,
        max_epoch=20,  # in each round
        clusters=750,  # K: how many people the target is thought to show
        threshold=0.85,  # of the cosine similarity to a cluster's seed
        near_any_seed=False,  # True: the authors' script; False: the article
        restart=False,  # every round from the initial weights; True: the authors' script
        heads_only=False,  # True: the trunk stays as it is; quick, but not the article's method
        lr=1e-3,
        momentum=0.9,
        batch_size=16,
        dropout=0.5,
    )
    node.clusters = _node(  # pseudo-labels, see methods/clusters.py
        rounds=2,  # with clusters-heads: more turn downwards
        trunk_rounds=8,  # with clusters-trunk and supervised
        eps=0.5,  # Jaccard distance of neighbours
        min_samples=4,
        k1=30,
        k2=6,
        temperature=0.05,
        keep=0.4,  # share of a cluster's centre that stays when crops of it are seen
        lr=3e-4,
        final_lr=1e-5,
        constant_rounds=5,  # at lr, before the exponential decay to final_lr
        weight_decay=5e-4,
        batch_size=72,
        num_instances=4,
    )
    node.adapt = _node(  # embae adapt
        method="trunk",  # norm | heads | trunk | reconstruction (the paper's variants)
        variant="cam",  # of reconstruction; with a single camera it is new
        stop="effective_rank",  # of reconstruction: the epoch that is kept, see transfer.stop
        largest_cluster=0.07,  # share of the crops above which one is not taken for a person
        flip_fall=0.1,  # of the agreement of mirror images, above which statistics are undone
        least_kept=0.1,  # share of crops in clusters below which nothing is learned from them
    )
    node.test = _node(tta="flip", protocols=["market", "nd"])  # tta: none | flip | ten_crop
    return node


def get_default_config() -> CfgNode:
    """torchreid's default tree plus the node ``embae`` (a fresh copy at each call)."""
    cfg = _torchreid_tree()
    cfg.embae = _embae_node()
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
