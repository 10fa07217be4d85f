"""From embeddings to pseudo-labels: who may be the same person, without a label."""

from embae_plugin.clustering.jaccard import jaccard_distances
from embae_plugin.clustering.pseudo_labels import PseudoLabels, pseudo_labels

__all__ = ["PseudoLabels", "jaccard_distances", "pseudo_labels"]
