"""Embeddings of listed crops, from their decoded pixels and cached features.

Cameras are named. A crop of one that the model does not know is embedded as of the camera it looks
like, if the model can guess, else by what all its cameras have in common; and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch

from embae_plugin.data.crops import Crops
from embae_plugin.data.embedding_files import EmbeddingTable, texts
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import UNKNOWN as UNKNOWN
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.models.camera_norm import knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.weight_files import few

logger = logging.getLogger(__name__)

SHOWN = 6  # names in a message


def tell_unknown(model: EmbAE, cameras: Iterable[str]) -> str:
    """Which of some cameras the model does not know, in words, and logs it; "" if it knows all.

    A model without statistics by camera treats all alike and knows all.
    """
    unknown = sorted(set(cameras) - set(model.camera_names))
    if not model.camera_names or not unknown:
        return ""
    how = "a camera never seen" if model.guess is None else "whichever camera each looks like"
    words = (
        f"the model was not adapted to the camera(s) {few(unknown, SHOWN)}, whose crops it "
        f"embeds as those of {how} (it knows {few(model.camera_names, SHOWN)})"
    )
    logger.warning("%s", words)
    return words


def embed_records(
    model: EmbAE, store: FeatureStore, records: ImageRecords, label: str, tta: str = "flip",
    normalize: bool = True, keep: bool = True,
) -> torch.Tensor:
    """Embeddings of N listed crops, (N, model.feature_dim) float32, averaged over views.

    A model with statistics by camera uses those of each record's camera, by name, or by what a
    crop looks like, see :meth:`FeatureStore.cameras` and :func:`tell_unknown`.
    """
    cameras = store.cameras(model, records, label) if knows_cameras(model) else None
    features = store.features(model, records, label, tta, keep, cameras)
    return embed_stored(model, features, records, normalize, cameras)


def embed_stored(
    model: EmbAE, features: torch.Tensor, records: ImageRecords, normalize: bool = True,
    cameras: torch.Tensor | None = None,
) -> torch.Tensor:
    """From trunk features (N, V, D) of N listed crops to embeddings (N, d).

    ``cameras`` (N,) are the model's numbers of their cameras; None takes them from the names.
    """
    if not knows_cameras(model.f_emb):
        return embed_views(model.embed_features, features, normalize)
    if cameras is None:
        cameras = model.camera_numbers(records.camera_names())
    cameras = cameras.to(features.device)
    found = features.new_empty(len(features), model.feature_dim)
    for camera in torch.unique(cameras):
        rows = cameras == camera
        embed = partial(model.embed_features, camids=camera[None])
        found[rows] = embed_views(embed, features[rows], normalize)
    return found


def embed_each_view(model: EmbAE, features: torch.Tensor, records: ImageRecords) -> torch.Tensor:
    """Embeddings (N, V, d) of trunk features (N, V, D) of N listed crops, each view apart."""
    views = [embed_stored(model, features[:, [n]], records) for n in range(features.shape[1])]
    return torch.stack(views, dim=1)


def crops_table(crops: Crops, z: torch.Tensor, about: Mapping[str, Any]) -> EmbeddingTable:
    """Embeddings z (N, d) of N crops with their names, as they are kept in a file."""
    pids = None if crops.pids is None else texts(crops.pids)
    names, cameras = texts(crops.names), texts(crops.cameras)
    return EmbeddingTable(names, cameras, z.cpu().numpy(), pids, dict(about))
