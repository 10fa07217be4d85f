"""The public data sets: where each comes from, where it has to lie, and what it should contain.

Only what its own authors offer counts as a download: Market-1501, through the Google Drive link on
their page, and the split files of CUHK03. The other links in torchreid are dead or lead to data
that was withdrawn; CUHK01, CUHK03, VIPeR and WARD are to be had from their authors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Counts(NamedTuple):
    """How much there is: images, identities (distractors are none) and cameras."""

    images: int
    ids: int
    cams: int


class Download(NamedTuple):
    """A file that its authors offer: address, digest ("md5:…" or "sha256:…"), and its name."""

    url: str
    digest: str
    name: str


@dataclass(frozen=True)
class Source:
    """One data set of torchreid's zoo, or WARD.

    how: how to get it, in words. layout: what is expected below the root.
    folder: its own folder below the root. inner: the folder inside that one which holds ``marks``.
    marks: regular expressions; a folder in which each fits some entry's name is the data set's.
    published: counts for each part, as torchreid reads it (junk detections left out).
    archive: the authors' own file, if there is one to download. extras: small files that belong
    beside the archive's content.
    withdrawn: its authors have taken it back.
    """

    how: str
    layout: str
    title: str = ""
    folder: str = ""
    inner: str = ""
    marks: tuple[str, ...] = ()
    published: dict[str, Counts] = field(default_factory=dict)
    archive: Download | None = None
    extras: tuple[Download, ...] = ()
    withdrawn: bool = False


_MARKET_MARKS = ("bounding_box_train", "query", "bounding_box_test")
_CUHK_PAGE = "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html"
# Zhong et al., CVPR 2017; the commit is pinned, so the digests can be, too.
_SPLITS = (
    "https://raw.githubusercontent.com/zhunzhong07/person-re-ranking/"
    "278f2c704e7f033b767f4158dff4febc03a0b78a/evaluation/data/CUHK03/"
)
_DETECTED = "cuhk03_new_protocol_config_detected.mat"
_LABELED = "cuhk03_new_protocol_config_labeled.mat"

SOURCES: dict[str, Source] = {
    "market1501": Source(
        title="Market-1501",
        how="Get Market-1501 (Zheng et al., ICCV 2015; for research) from its authors' page, "
        "https://zheng-lab-anu.github.io/Project/project_reid.html",
        layout="market1501/Market-1501-v15.09.15/{bounding_box_train,query,bounding_box_test}",
        folder="market1501",
        inner="Market-1501-v15.09.15",
        marks=_MARKET_MARKS,
        published={
            "train": Counts(12936, 751, 6),
            "query": Counts(3368, 750, 6),
            "gallery": Counts(15913, 750, 6),
        },
        archive=Download(
            "https://drive.google.com/uc?id=0B8-rUzbwVRk0c054eEozWG9COHM"
            "&resourcekey=0-8nyl7K9_x37HlQm34MmrYQ",
            "md5:65005ab7d12ec1c44de4eeafe813e68a",
            "Market-1501-v15.09.15.zip",
        ),
    ),
    "dukemtmcreid": Source(
        title="DukeMTMC-reID",
        how="DukeMTMC was withdrawn by its authors in 2019 over the privacy of the people in it, "
        "and must not be fetched from elsewhere. Only a copy you may lawfully use can be read",
        layout="dukemtmc-reid/DukeMTMC-reID/{bounding_box_train,query,bounding_box_test}",
        folder="dukemtmc-reid",
        inner="DukeMTMC-reID",
        marks=_MARKET_MARKS,
        published={
            "train": Counts(16522, 702, 8),
            "query": Counts(2228, 702, 8),
            "gallery": Counts(17661, 1110, 8),
        },
        withdrawn=True,
    ),
    "cuhk01": Source(
        title="CUHK01",
        how=f"Ask for CUHK01 (Li et al., ACCV 2012; for research) at {_CUHK_PAGE}",
        layout="cuhk01/campus/*.png",
        folder="cuhk01",
        inner="campus",
        marks=(r"\d{7}\.png",),
        published={"all": Counts(3884, 971, 2)},
    ),
    "cuhk02": Source(
        how=f"Ask for CUHK02 (Li and Wang, CVPR 2013) at {_CUHK_PAGE}",
        layout="cuhk02/Dataset/{P1,P2,P3,P4,P5}",
    ),
    "cuhk03": Source(
        title="CUHK03",
        how=f"Ask for CUHK03 (Li et al., CVPR 2014; for research) at {_CUHK_PAGE}; the two files "
        "of the 767/700 split (Zhong et al., CVPR 2017) are in evaluation/data/CUHK03 of "
        "https://github.com/zhunzhong07/person-re-ranking",
        layout=f"cuhk03/{{cuhk03_release/cuhk-03.mat,{_DETECTED},{_LABELED}}}",
        folder="cuhk03",
        inner="cuhk03_release",
        marks=(r"cuhk-03\.mat",),
        published={
            "detected train": Counts(7365, 767, 2),
            "detected query": Counts(1400, 700, 2),
            "detected gallery": Counts(5332, 700, 2),
            "labelled train": Counts(7368, 767, 2),
            "labelled query": Counts(1400, 700, 2),
            "labelled gallery": Counts(5328, 700, 2),
        },
        extras=(
            Download(
                _SPLITS + _DETECTED,
                "sha256:ef438e7775fce6d08ef6dff84d2235bd4bed63850dbbf7025f3251e45c7fa721",
                _DETECTED,
            ),
            Download(
                _SPLITS + _LABELED,
                "sha256:15627d0913d59ac61220cf311dbca8b936499265da86c0c036d3b8162a180b9c",
                _LABELED,
            ),
        ),
    ),
    "viper": Source(
        title="VIPeR",
        how="Ask for VIPeR (Gray et al., PETS 2007) at the vision lab of the University of "
        "California, Santa Cruz; the download link that torchreid has is reported dead",
        layout="viper/VIPeR/{cam_a,cam_b}/*.bmp",
        folder="viper",
        inner="VIPeR",
        marks=("cam_a", "cam_b"),
        published={"all": Counts(1264, 632, 2)},
    ),
    "ward": Source(
        title="WARD",
        how="Ask for WARD (Martinel and Micheloni, CVPR Workshops 2012) at the page of its "
        "authors, AVIRES lab, University of Udine: 4786 images of 70 people and 3 cameras, named "
        "by person, camera and image, four digits each",
        layout="ward/PPPPCCCCNNNN.png",
        folder="ward",
        marks=(r"\d{12}\.png",),
        published={"all": Counts(4786, 70, 3)},
    ),
    "msmt17": Source(
        how="Ask for MSMT17 (Wei et al., CVPR 2018) at http://www.pkuvmc.com/dataset.html",
        layout="msmt17/MSMT17_V1/{train,test,list_train.txt,list_val.txt,list_query.txt,"
        "list_gallery.txt}",
    ),
}


def by_hand(name: str, root: str | Path) -> str:
    """One or two sentences: where to get dataset ``name`` and where to put it below ``root``."""
    if name not in SOURCES:
        return f"See torchreid's docs/datasets.rst for how to get '{name}' and how to lay it out"
    source = SOURCES[name]
    return f"{source.how}; expected: {Path(root).expanduser().absolute() / source.layout}"


def how_to_get(name: str, root: str | Path) -> str:
    """As :func:`by_hand`, with the command that fetches it, if there is one."""
    if name in SOURCES and SOURCES[name].archive:
        return f"Run: embae data get {name} --root {root}. Or by hand: {by_hand(name, root)}"
    return by_hand(name, root)
