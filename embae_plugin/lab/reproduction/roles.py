"""Which of a run's scores fills which row of a table, and what the row is then called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from yacs.config import CfgNode

from embae_plugin.lab.reproduction.published import PaperRow
from embae_plugin.settings.config import COMPARISONS, VARIANTS

PUL, PUL_BASELINE = "pul", "pul_baseline"
PUBLISHED_NETWORK = "embae_resnet50"


@dataclass(frozen=True)
class PulSetting:
    """What PUL's rows are.

    Attributes:
        own: PUL starts from a baseline of its own, trained by softmax; else from stage 1's.
        network: the own baseline's.
        heads_only: PUL leaves the trunk as it is.
    """

    own: bool
    network: str = PUBLISHED_NETWORK
    heads_only: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PulSetting:
        """Of the run that makes PUL's rows."""
        node = cfg.embae.pul
        return cls(node.base == "softmax", cfg.embae.trunk or cfg.model.name, node.heads_only)

    @property
    def published(self) -> bool:
        """Whether it is what the paper's numbers belong to."""
        return self.own and self.network == PUBLISHED_NETWORK

    def variant(self, role: str) -> str:
        """The row of ``results.json`` that holds the scores of a role."""
        if role == PUL_BASELINE:
            return "pul-baseline" if self.own else "baseline"
        return role

    def label(self, row: PaperRow) -> str:
        """The row's name; it says so where PUL is not the published one."""
        if row.role not in (PUL, PUL_BASELINE) or self.published:
            return row.label
        if self.own:
            return f"{row.label} ({self.network})"
        if row.role == PUL_BASELINE:
            return f"{row.label} (= Baseline Embedding)"
        return "PUL on the EmbAE embedding" + (", heads only" if self.heads_only else "")

    def note(self) -> str:
        """A remark for tables with PUL's rows; ``""`` where there is nothing to say."""
        if self.published:
            return ""
        trunk = " and learns the head alone, the trunk as it is" if self.heads_only else ""
        start = f"a {self.network} trained by softmax" if self.own else "the EmbAE embedding"
        return (
            f"PUL starts here from {start}{trunk}; its published numbers are of another network, "
            "a ResNet-50 trained by softmax, and stand there for reference only."
        )

    def comparable(self, row: PaperRow) -> bool:
        """Whether the row is the method whose number the paper prints."""
        return bool(row.scores) and (self.published or row.role not in (PUL, PUL_BASELINE))


def wanted_rows(rows: Iterable[PaperRow], pul: PulSetting) -> tuple[str, ...]:
    """The rows of ``results.json`` that tables' rows need, each once, in a run's order."""
    wanted = {pul.variant(row.role) for row in rows}
    order = (*VARIANTS, *(name for c in COMPARISONS for name in (f"{c}-baseline", c)))
    return tuple(name for name in order if name in wanted)


def is_pul(row: PaperRow) -> bool:
    """Whether PUL makes the row, and not EmbAE."""
    return row.role in (PUL, PUL_BASELINE)
