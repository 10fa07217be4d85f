"""From a model and labelled crops to scores, by way of the cached features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.models.camera_norm import current_of
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.pooled import ReIDModel


def embed_records(
    model: ReIDModel,
    store: FeatureStore,
    records: ImageRecords,
    label: str,
    tta: str = "flip",
    normalize: bool = True,
    keep: bool = True,
) -> torch.Tensor:
    """Embeddings of N crops, (N, model.feature_dim) float32, averaged over test-time views.

    A model with statistics by camera uses those of each record's camera.
    """
    features = store.features(model.trunk, records, label, tta, keep).features
    return embed_camera_features(model, features, records.camids, normalize)


def embed_camera_features(
    model: ReIDModel, features: torch.Tensor, camids: np.ndarray, normalize: bool = True
) -> torch.Tensor:
    """From trunk features (N, V, D) of crops of cameras ``camids`` (N,) to embeddings (N, d)."""
    current = current_of(model.f_emb)
    if not isinstance(model, EmbAE) or current is None:
        return embed_views(model.embed_features, features, normalize)
    cameras = model.known_cameras(torch.from_numpy(camids)).to(features.device)
    found = features.new_empty(len(features), model.feature_dim)
    for camera in torch.unique(cameras):
        rows = cameras == camera
        embed = partial(model.embed_features, camids=camera[None])
        found[rows] = embed_views(embed, features[rows], normalize)
    return found


def score_model(
    model: ReIDModel,
    store: FeatureStore,
    query: ImageRecords,
    gallery: ImageRecords,
    tta: str = "flip",
    normalize: bool = True,
    protocols: Sequence[str] = ("market", "nd"),
    keep: bool = True,
) -> dict[str, Scores]:
    """Scores of a model under each protocol (paper 5.1); several processes share the queries.

    ``keep`` False leaves no features behind (see :meth:`FeatureStore.features`).

    Raises:
        ValueError: query or gallery carry no identities.
    """
    if query.pids is None or gallery.pids is None:
        raise ValueError("query and gallery need identities to be scored against")
    model.eval()
    return evaluate_embeddings(
        embed_records(model, store, query, "query", tta, normalize, keep),
        embed_records(model, store, gallery, "gallery", tta, normalize, keep),
        query.pids,
        gallery.pids,
        query.camids,
        gallery.camids,
        protocols=tuple(protocols),
    )
