"""The numbers of the paper's Tables 1 to 4, as data, and the data sets they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ALL_SCORES = ("rank1", "rank1_nd", "mAP", "mAP_nd")
PUL_SCORES = ("rank1", "mAP")

DUKE = ("dukemtmcreid",)
FOUR = ("dukemtmcreid", "cuhk03", "viper", "ward")
TARGET = "market1501"
# Market-1501 as its authors published it (Zheng et al., ICCV 2015).
TARGET_IMAGES = {"training": 12_936, "query": 3_368, "gallery": 15_913}


@dataclass(frozen=True)
class PaperRow:
    """One row of a table."""

    label: str
    role: str  # whose scores belong here: a variant, pul, or pul_baseline, which PUL starts from
    against: str  # the role of the row that the gain is measured against; "" for none
    scores: Mapping[str, float]  # what the paper prints; empty for a row that it does not have


@dataclass(frozen=True)
class PaperTable:
    """One table, on the target :data:`TARGET`."""

    title: str
    sources: tuple[str, ...]  # names of torchreid's zoo
    columns: tuple[str, ...]  # keys of a row of results.json
    rows: tuple[PaperRow, ...]
    footnotes: tuple[str, ...] = ()  # where the paper's print needs a remark


def _row(label: str, role: str, against: str, *scores: float) -> PaperRow:
    names = ALL_SCORES if len(scores) == len(ALL_SCORES) else PUL_SCORES
    return PaperRow(label, role, against, dict(zip(names, scores, strict=True)))


UNPUBLISHED = (
    PaperRow("EmbAE-all", "all", "baseline", {}),
    PaperRow("EmbAE-dataset", "dataset", "baseline", {}),
)

TABLES: dict[int, PaperTable] = {
    1: PaperTable("EmbAE trained on one data set", DUKE, ALL_SCORES, (
        _row("Baseline", "baseline", "", 0.421, 0.485, 0.177, 0.211),
        _row("EmbAE-fix", "fix", "baseline", 0.553, 0.661, 0.275, 0.339),
        _row("EmbAE-new", "new", "baseline", 0.556, 0.650, 0.280, 0.337),
        _row("EmbAE-cam", "cam", "baseline", 0.585, 0.669, 0.294, 0.345),
    )),
    2: PaperTable("EmbAE trained on several data sets", FOUR, ALL_SCORES, (
        _row("Baseline", "baseline", "", 0.528, 0.607, 0.273, 0.322),
        _row("EmbAE-fix", "fix", "baseline", 0.596, 0.712, 0.329, 0.399),
        _row("EmbAE-new", "new", "baseline", 0.606, 0.707, 0.342, 0.404),
        _row("EmbAE-cam", "cam", "baseline", 0.643, 0.729, 0.357, 0.414),
    ), ("The paper's caption of Table 2 says \"one dataset\"; its text (5.3) says four.",)),
    3: PaperTable("PUL and EmbAE, trained on one data set", DUKE, PUL_SCORES, (
        _row("Baseline PUL", "pul_baseline", "", 0.361, 0.142),
        _row("Fine-Tuned PUL", "pul", "pul_baseline", 0.447, 0.201),
        _row("Baseline Embedding", "baseline", "", 0.421, 0.177),
        _row("EmbAE-cam", "cam", "baseline", 0.585, 0.294),
    ), ("The paper's Table 3 prints 0.273 as the mAP of Baseline Embedding. That is Table 2's "
        "number: Table 1 has 0.177 for the same model, and the gain of EmbAE-cam printed in "
        "Table 3, +0.117, follows from 0.177 alone. Shown is 0.177.",)),
    4: PaperTable("PUL and EmbAE, trained on several data sets", FOUR, PUL_SCORES, (
        _row("Baseline PUL", "pul_baseline", "", 0.400, 0.170),
        _row("Fine-Tuned PUL", "pul", "pul_baseline", 0.455, 0.205),
        _row("Baseline Embedding", "baseline", "", 0.528, 0.273),
        _row("EmbAE-cam", "cam", "baseline", 0.643, 0.357),
    )),
}


def table_rows(number: int, all_variants: bool = False) -> tuple[PaperRow, ...]:
    """The rows of a table; with ``all_variants`` also those the paper describes but leaves out.

    The latter are EmbAE-all and EmbAE-dataset, in Tables 1 and 2.
    """
    table = TABLES[number]
    extra = UNPUBLISHED if all_variants and table.columns == ALL_SCORES else ()
    return (*table.rows, *extra)
