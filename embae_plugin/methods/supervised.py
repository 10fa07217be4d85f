"""The bounds that adaptation is measured against: the target's true labels in place of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.clustering import PseudoLabels
from embae_plugin.clustering.pseudo_labels import Ints
from embae_plugin.methods.clusters import ImageClusterEngine
from embae_plugin.methods.registry import Row, register_method
from embae_plugin.models.embae import EmbAE
from embae_plugin.settings.config import zoo_kwargs

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from embae_plugin.data.records import ReIDData


@register_method(
    Row("supervised-heads", "norm", "true labels of the target taught to f_emb: a bound",
        {"learn": "heads"}, output="joint", adapts=False),
    Row("supervised", "norm", "true labels of the target taught to the whole network: a bound",
        {"learn": "trunk"}, adapts=False),
)
class ImageSupervisedEngine(ImageClusterEngine):
    """The training of :class:`ImageClusterEngine` with true identities for clusters.

    Args:
        identities: (N,) of the target's images.
        **given: see :class:`ImageClusterEngine`.

    Raises:
        ValueError: another number of identities than images.
    """

    labels = "true identities"

    def __init__(
        self, datamanager: Any, model: EmbAE, part: str = "", *, identities: Ints, **given: Any
    ) -> None:
        super().__init__(datamanager, model, part, **given)
        if len(identities) != len(self.target):
            raise ValueError(f"{len(identities)} identities for {len(self.target)} target images")
        self.identities = identities

    @classmethod
    def inputs(cls, cfg: CfgNode, data: ReIDData, model: EmbAE, start: EmbAE) -> dict[str, Any]:
        """The identities of the target's images, read from its data set."""
        options = {"root": cfg.data.root, "split_id": cfg.data.split_id, **zoo_kwargs(cfg)}
        items = bridge.dataset_split(data.target, mode="train", **options)
        target = data.target_train
        if target is None or [item[0] for item in items] != list(target.paths):
            raise ValueError(f"the identities of {data.target} cannot be had for supervised")
        return {"identities": np.array([item[1] for item in items], dtype=np.int64)}

    def groups(self, x: torch.Tensor) -> PseudoLabels:
        """The people."""
        return PseudoLabels(np.unique(self.identities, return_inverse=True)[1].reshape(-1))
