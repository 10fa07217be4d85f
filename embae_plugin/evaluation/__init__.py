"""Scores of a retrieval: protocols, ranking, test-time augmentation."""

from __future__ import annotations

from embae_plugin.evaluation.metrics import Scores
from embae_plugin.evaluation.protocols import PROTOCOLS, Protocol
from embae_plugin.evaluation.ranking import evaluate_embeddings, evaluate_rank

__all__ = ["PROTOCOLS", "Protocol", "Scores", "evaluate_embeddings", "evaluate_rank"]
