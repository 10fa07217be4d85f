"""A retrieval like Market-1501's: embeddings with identities, cameras and distractors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IDENTITIES, CAMERAS = 750, 6  # of Market-1501's test split; its background is the 751st id
IMAGES_EACH = 17  # gallery images of an identity
BACKGROUND = 2798 / 15913  # share of gallery images that show none of the identities

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Retrieval(NamedTuple):
    """What an evaluator takes."""

    q_emb: Floats
    g_emb: Floats
    q_pids: Ints
    g_pids: Ints
    q_camids: Ints
    g_camids: Ints


def make_retrieval(
    num_query: int, num_gallery: int, dim: int, seed: int = 0, matched: int = 15913
) -> Retrieval:
    """Draws a retrieval: identity's centre, camera's, and noise, scaled to length 1.

    What a gallery has beyond ``matched`` images is distractors, as in Market-1501+500k: queries
    keep the number of positives that they have in Market-1501, about 17.
    """
    rng = np.random.default_rng(seed)
    known = int(min(num_gallery, matched) * (1 - BACKGROUND))
    count = min(IDENTITIES, max(1, known // IMAGES_EACH))
    weights = rng.gamma(3.0, 1.0, count)  # images of an identity: as unequal as Market's
    q_pids = rng.choice(count, num_query, p=weights / weights.sum()) + 1
    g_pids = np.zeros(num_gallery, dtype=np.int64)
    g_pids[:known] = rng.choice(count, known, p=weights / weights.sum()) + 1
    rng.shuffle(g_pids)
    people = rng.standard_normal((count + 1, dim), dtype=np.float32)
    people[0] = 0
    cameras = rng.standard_normal((CAMERAS, dim), dtype=np.float32)

    def embed(pids: Ints, camids: Ints) -> Floats:
        out = np.empty((len(pids), dim), dtype=np.float32)
        for start in range(0, len(pids), 8192):  # in pieces: the peak of memory is measured
            part = out[start : start + 8192]
            stop = start + len(part)
            rng.standard_normal(out=part, dtype=np.float32)
            part += 0.6 * people[pids[start:stop]] + 0.4 * cameras[camids[start:stop]]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return out

    q_camids, g_camids = (rng.integers(CAMERAS, size=n) for n in (num_query, num_gallery))
    return Retrieval(
        embed(q_pids, q_camids), embed(g_pids, g_camids), q_pids, g_pids, q_camids, g_camids
    )
