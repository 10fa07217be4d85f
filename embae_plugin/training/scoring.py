"""From a model and labelled crops to scores, by way of the cached features."""

from __future__ import annotations

from collections.abc import Sequence

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import UNKNOWN, embed_records, tell_unknown
from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.models.embae import EmbAE


def score_model(
    model: EmbAE,
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
    tell_unknown(model, {*query.camera_names(), *gallery.camera_names()} - {UNKNOWN})
    return evaluate_embeddings(
        embed_records(model, store, query, "query", tta, normalize, keep),
        embed_records(model, store, gallery, "gallery", tta, normalize, keep),
        query.pids,
        gallery.pids,
        query.camids,
        gallery.camids,
        protocols=tuple(protocols),
    )
