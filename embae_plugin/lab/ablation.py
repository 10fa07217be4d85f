"""What scoring choices are worth: test-time views and normalisation, for every finished model.

The trunk's features are computed once for all of it: a view on its own is the first of the two
that flip has, and normalisation is applied to embeddings that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from embae_plugin.data.records import ImageRecords
from embae_plugin.embedder import embed_stored
from embae_plugin.evaluation.ranking import evaluate_embeddings
from embae_plugin.evaluation.score_table import Row, score_row
from embae_plugin.methods.pipeline import STAGES, Run
from embae_plugin.models.embae import EmbAE

logger = logging.getLogger(__name__)

TTA = ("none", "flip", "ten_crop")


def _embeddings(
    run: Run, model: EmbAE, records: ImageRecords, label: str, tta: str
) -> torch.Tensor:
    """As they are, (N, model.feature_dim)."""
    views = "flip" if tta == "none" else tta
    features = run.store.features(model, records, label, views)
    features = features[:, :1] if tta == "none" else features
    return embed_stored(model, features, records, normalize=False)


def ablate(run: Run, variants: Sequence[str] = (), tta: Sequence[str] = TTA) -> list[Row]:
    """A row of scores for each finished model × test-time augmentation × normalisation.

    Args:
        run: of the configuration that the models were trained with.
        variants: which; empty for all that are finished.
        tta: which of ``none``, ``flip`` and ``ten_crop``.

    Returns:
        rows of :func:`score_row`, each with ``tta`` and ``normalized`` besides.

    Raises:
        FileNotFoundError: a variant asked for is not finished, or none is.
        ValueError: the target has no query and gallery.
    """
    query, gallery = run.data.query, run.data.gallery
    if query is None or gallery is None or query.pids is None or gallery.pids is None:
        raise ValueError("the target has no labelled query and gallery to score on")
    rows = []
    for variant, model in _models(run, variants).items():
        for views in tta:
            logger.info("%s, test-time augmentation %s", variant, views)
            q = _embeddings(run, model, query, "query", views)
            g = _embeddings(run, model, gallery, "gallery", views)
            for normalized in (False, True):
                scores = evaluate_embeddings(
                    F.normalize(q, dim=1) if normalized else q,
                    F.normalize(g, dim=1) if normalized else g,
                    query.pids, gallery.pids, query.camids, gallery.camids,
                    protocols=run.cfg.embae.test.protocols,
                )  # fmt: skip
                row = score_row(variant, scores, run.cfg.test.ranks)
                rows.append({"tta": views, "normalized": normalized, **row})
    return rows


def _models(run: Run, variants: Sequence[str]) -> dict[str, EmbAE]:
    finished = {name: run.finished(stage) for name, stage in STAGES.items()
                if not variants or name in variants}  # fmt: skip
    models = {name: model for name, model in finished.items() if model is not None}
    absent = [name for name in variants if name not in models]
    if absent or not models:
        there = ", ".join(models) or "none"
        raise FileNotFoundError(
            f"{run.save_dir} holds no finished {', '.join(absent) or 'model'} (finished: {there}). "
            "Train it with embae train, the same data.save_dir and embae.variants"
        )
    return models
