"""Evaluation protocols: which gallery items does a query ignore.

Every rule used in person Re-ID ignores items of the query's camera only, and looks at nothing but
whether they have the query's identity: two switches describe a protocol completely.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Protocol:
    """A named rule: the gallery items that a query ignores."""

    name: str  # what users call it, the key in PROTOCOLS
    ignores_same_identity: bool  # items of the query's camera *with* the query's identity
    ignores_other_identities: bool  # items of the query's camera with any other identity
    description: str  # one line for reports

    def ignored(
        self, q_pids: npt.ArrayLike, g_pids: npt.ArrayLike,
        q_camids: npt.ArrayLike, g_camids: npt.ArrayLike,
    ) -> npt.NDArray[np.bool_]:
        """``(num_query, num_gallery)`` mask of the items each query ignores, for ranked lists.

        Scores do not need it: it would be as large as a quarter of the distance matrix.
        """
        same_pid = np.asarray(q_pids)[:, None] == np.asarray(g_pids)[None, :]
        same_camera = np.asarray(q_camids)[:, None] == np.asarray(g_camids)[None, :]
        switch = np.where(same_pid, self.ignores_same_identity, self.ignores_other_identities)
        return np.asarray(same_camera & switch)


PROTOCOLS = {
    "market": Protocol("market", True, False,
                       "ignore the query's identity in the query's camera (Zheng et al., 2015)"),
    "nd": Protocol("nd", True, True,
                   "ignore everything in the query's camera (the paper's -nd columns)"),
}


def get_protocols(names: str | Iterable[str]) -> list[Protocol]:
    """The protocols of these names, in order and each once; one bare name is fine.

    Raises:
        ValueError: a name is unknown, or there is none at all.
    """
    chosen = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in chosen or [""]:
        if name not in PROTOCOLS:
            valid = ", ".join(PROTOCOLS)
            raise ValueError(f"unknown evaluation protocol {name!r}; valid ones: {valid}")
    return [PROTOCOLS[name] for name in chosen]
