"""torchreid's published Re-ID models: what each is, and where its authors keep its file.

``published_models.csv`` is from the model zoo of KaiyangZhou/deep-person-reid (docs/MODEL_ZOO.md,
commit f8cd150) and the authors' repository kaiyangzhou/osnet on the Hugging Face hub, which holds
some of the same files. The authors publish no checksums; those are what independent projects pin.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_url

PREFIX = "torchreid:"
HUB = "kaiyangzhou/osnet"
HUB_REVISION = "a5c5cc037c24235cda3b21085b93ad77c9616224"

TRAINED_ON = {
    "market1501": "Market-1501",
    "dukemtmcreid": "DukeMTMC-reID",
    "msmt17": "MSMT17",
    "msmt17_combineall": "MSMT17, all its images",
    "ms_d_c": "MSMT17, DukeMTMC-reID, CUHK03",
    "ms_m_c": "MSMT17, Market-1501, CUHK03",
    "ms_d_m": "MSMT17, DukeMTMC-reID, Market-1501",
    "d_m_c": "DukeMTMC-reID, Market-1501, CUHK03",
}

@dataclass(frozen=True)
class PublishedModel:
    """A file of the model zoo.

    Attributes:
        arch: torchreid's architecture.
        data: what it was trained on, a key of :data:`TRAINED_ON`.
        drive: Google Drive's id of the file.
        hub: its name in the authors' repository on the Hugging Face hub; "" if it is not there.
        sha256: of the file; "" if nobody has published it.
    """

    arch: str
    data: str
    drive: str
    hub: str
    sha256: str

    @property
    def name(self) -> str:
        """As the commands take it."""
        return f"{PREFIX}{self.arch}/{self.data}"

    @property
    def file(self) -> str:
        """Name of the file in the cache."""
        return f"{self.arch}_{self.data}.pth"

    @property
    def links(self) -> list[str]:
        """Where the file can be fetched, by this package or by a browser; the best first."""
        # gdown's versions differ in which of Drive's links they understand; all take this one.
        drive = f"https://drive.google.com/uc?id={self.drive}"
        return [hf_hub_url(HUB, self.hub, revision=HUB_REVISION), drive] if self.hub else [drive]


def published_models() -> list[PublishedModel]:
    """The whole zoo."""
    table = Path(__file__).with_name("published_models.csv")
    with table.open(newline="", encoding="utf-8") as file:
        return [PublishedModel(**row) for row in csv.DictReader(file)]


def published_model(name: str) -> PublishedModel:
    """The model of that name, such as ``torchreid:osnet_x1_0/msmt17``.

    Raises:
        ValueError: there is none; names those of the architecture, or similar ones.
    """
    known = {model.name: model for model in published_models()}
    if name in known:
        return known[name]
    arch = name.removeprefix(PREFIX).partition("/")[0]
    near = [other for other, model in known.items() if model.arch == arch]
    near = near or difflib.get_close_matches(name, known, n=3) or [next(iter(known))]
    raise ValueError(
        f"torchreid's zoo has no model '{name}'; it has {', '.join(near)} (`embae models` lists "
        "all of them)"
    )
