"""The models of torchreid's zoo, fetched once into a cache that is checked at every use.

``published_models.csv`` is from the model zoo of KaiyangZhou/deep-person-reid (docs/MODEL_ZOO.md,
commit f8cd150) and the authors' repository kaiyangzhou/osnet on the Hugging Face hub, which holds
some of the same files. The authors publish no checksums; those are what independent projects pin.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import hf_hub_url

from embae_plugin.atomic_file import replacing
from embae_plugin.fetching import fetch_file, file_digest, reason_of
from embae_plugin.models.recognition import recognise
from embae_plugin.models.weight_files import read_state
from embae_plugin.suggestions import did_you_mean

PREFIX = "torchreid:"
HUB = "kaiyangzhou/osnet"
HUB_REVISION = "a5c5cc037c24235cda3b21085b93ad77c9616224"


@dataclass(frozen=True)
class PublishedModel:
    """A file of the model zoo.

    Attributes:
        arch: torchreid's architecture.
        data, trained_on: what it was trained on, as in its name and in words.
        millions: of parameters, without the classifier.
        drive: Google Drive's id of the file.
        hub: its name in the authors' repository on the Hugging Face hub; "" if it is not there.
        sha256: of the file; "" if nobody has published it.
    """

    arch: str
    data: str
    trained_on: str
    millions: str
    drive: str
    hub: str
    sha256: str

    @property
    def name(self) -> str:
        """As the commands take it."""
        return f"{PREFIX}{self.arch}/{self.data}"

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched; one put there by hand serves as well."""
        return cache_folder() / f"{self.arch}_{self.data}.pth"

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
    same = ", ".join(other for other, model in known.items() if model.arch == arch)
    hint = f" Of {arch} it has {same}." if same else did_you_mean(name, known, most=3)
    raise ValueError(f"torchreid's zoo has no model '{name}'.{hint} `embae models` lists all")


def cache_folder() -> Path:
    """Where fetched models lie.

    ``$EMBAE_CACHE/models``; without that variable ``embae/models`` below ``$XDG_CACHE_HOME`` or
    ``~/.cache``.
    """
    own = os.environ.get("EMBAE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(home) / "embae").expanduser().absolute() / "models"


def fetch(name: str) -> Path:
    """The file of a published model, fetched on first use.

    Its SHA-256 is compared with the published one, where there is one, or else with that of the
    first use, which is kept beside the file.

    Args:
        name: such as ``torchreid:osnet_x1_0/msmt17``; `embae models` lists them.

    Raises:
        ValueError: no model of that name, or the file in the cache is not the one it was.
        FileNotFoundError: it cannot be fetched; says which file to get from where, and where to
            put it.
        OSError: the cache cannot be written.
    """
    model = published_model(name)
    path = model.path
    note, recorded = path.with_name(f"{path.name}.sha256"), ""
    if path.is_file():
        recorded = note.read_text(encoding="utf-8").partition(" ")[0] if note.is_file() else ""
        try:
            digest = _checked(model, path, recorded)
        except ValueError as error:
            raise ValueError(f"{error}. Remove it and {note.name} to fetch it again") from None
    else:
        digest = _fetched(model)
    if not recorded:
        with replacing(note) as draft:
            draft.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return path


def _fetched(model: PublishedModel) -> str:
    """Fetches a file; its SHA-256."""
    reasons = []
    for url in model.links:
        with tempfile.TemporaryDirectory() as work:
            found = Path(work) / model.path.name
            try:
                fetch_file(url, found)
                digest = _checked(model, found)
            except (OSError, ValueError) as error:
                reason = reason_of(error).replace(f"{work}{os.sep}", "")
                reasons.append(f"{urlsplit(url).hostname}: {reason}")
                continue
            with replacing(model.path) as draft:
                shutil.copyfile(found, draft)
        return digest
    raise FileNotFoundError(f"{model.name} could not be fetched ({'; '.join(reasons)}). Get "
                            f"{' or '.join(model.links)} on any machine, and put the file at "
                            f"{model.path}")


def _checked(model: PublishedModel, path: Path, recorded: str = "") -> str:
    """A file's SHA-256, if it is the published one, or the recorded one, or of such a network."""
    digest = file_digest(path)
    if model.sha256 and digest != model.sha256:
        raise ValueError(
            f"{path} is not the published file: its sha256 is {digest}, not {model.sha256}"
        )
    if recorded and digest != recorded:
        raise ValueError(
            f"{path} has changed since its first use: its sha256 is {digest}, not {recorded}"
        )
    if not model.sha256 and not recorded:
        recognise(read_state(path), model.arch, path.name)
    return digest
