"""From a model and labelled crops to scores, by way of the cached features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from embae_plugin import distributed
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.evaluation import Scores, evaluate_embeddings
from embae_plugin.evaluation.tta import embed_views
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
    """Embeddings z_id of N crops, (N, z_id_dim) float32, averaged over test-time views."""
    features = store.features(model.trunk, records, label, tta, keep).features
    return embed_views(model.f_emb, features, normalize)


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
    q_emb = embed_records(model, store, query, "query", tta, normalize, keep)
    g_emb = embed_records(model, store, gallery, "gallery", tta, normalize, keep)
    share = slice(*distributed.shards(len(query))[distributed.rank()])
    shared = distributed.size() > 1 and len(query) >= distributed.size()
    share = share if shared else slice(None)
    scores = evaluate_embeddings(
        q_emb[share],
        g_emb,
        query.pids[share],
        gallery.pids,
        query.camids[share],
        gallery.camids,
        protocols=tuple(protocols),
    )
    return {name: merge_scores(part) for name, part in scores.items()} if shared else scores


def merge_scores(mine: Scores) -> Scores:
    """The scores of all queries, from those of each rank's share of them."""
    count = mine.queries
    sums = np.concatenate([mine.cmc, [mine.mAP, mine.mAP_trapezoid]]) * max(count, 1)
    row = np.append(np.where(count, sums, 0.0), [count, mine.dropped_queries])
    ones = [(rank, rank + 1) for rank in range(distributed.size())]
    total = distributed.gather_rows(torch.from_numpy(row)[None], ones).sum(dim=0).numpy()
    queries = int(total[-2])
    means = total[:-2] / queries if queries else np.full(len(total) - 2, np.nan)
    return Scores(means[:-2], float(means[-2]), float(means[-1]), queries, int(total[-1]))
