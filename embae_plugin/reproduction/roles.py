"""Which of a run's scores fills which row of a table, and what the row is then called."""

from __future__ import annotations

from collections.abc import Iterable

from embae_plugin.config import VARIANTS
from embae_plugin.reproduction.published import PaperRow

PUL, PUL_BASELINE = "pul", "pul_baseline"
# Where PUL starts from the embedding of stage 1, its own baseline is that embedding.
_ON_THE_EMBEDDING = {PUL_BASELINE: "baseline"}
_LABELS_ON_THE_EMBEDDING = {
    PUL_BASELINE: "Baseline PUL (here: Baseline Embedding)",
    PUL: "PUL on the EmbAE embedding",
}


def variant_of(role: str, pul: str) -> str:
    """The variant, a row of ``results.json``, that holds the scores of a role.

    Args:
        role: of a :class:`PaperRow`.
        pul: ``own`` or ``embedding``, what PUL starts from.
    """
    return _ON_THE_EMBEDDING.get(role, role) if pul == "embedding" else role


def variants_of(rows: Iterable[PaperRow], pul: str) -> tuple[str, ...]:
    """The variants that rows need, each once, in the order in which a run trains them."""
    wanted = {variant_of(row.role, pul) for row in rows}
    known = [name for name in VARIANTS if name in wanted]
    return (*known, *sorted(wanted - set(known)))


def label_of(row: PaperRow, pul: str) -> str:
    """The row's name; it says so where PUL does not start from its own network."""
    return _LABELS_ON_THE_EMBEDDING.get(row.role, row.label) if pul == "embedding" else row.label


def as_published(row: PaperRow, pul: str) -> bool:
    """Whether the row is the method whose number the paper prints."""
    return bool(row.scores) and not (pul == "embedding" and row.role in (PUL, PUL_BASELINE))
