"""torchreid's published Re-ID models: what each is, and where its authors keep its file.

From the model zoo of KaiyangZhou/deep-person-reid (docs/MODEL_ZOO.md, commit f8cd150) and the
authors' repository kaiyangzhou/osnet on the Hugging Face hub, which holds some of the same files.
"""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import hf_hub_url

from embae_plugin.suggestions import did_you_mean

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

# Google Drive's id of each file, by architecture and by what it was trained on.
_DRIVE = {
    "osnet_x1_0": {
        "market1501": "1vduhq5DpN2q1g4fYEZfPI17MJeh9qyrA",
        "dukemtmcreid": "1QZO_4sNf4hdOKKKzKc-TZU9WW1v6zQbq",
        "msmt17": "112EMUfBPYeYg70w-syK6V6Mx8-Qb9Q1M",
        "msmt17_combineall": "1IosIFlLiulGIjwW3H8uMRmx3MzPwf86x",
        "ms_d_c": "1tuYY1vQXReEd8N8_npUkc7npPDDmjNCV",
        "ms_m_c": "1UxUI4NsE108UCvcy3O1Ufe73nIVPKCiu",
        "ms_d_m": "1kAA6qHJvbaJtyh1b39ZyEqWROwUgWIhl",
        "d_m_c": "1wAHuYVTzj8suOwqCNcEmu6YdbVnHDvA2",
    },
    "osnet_x0_75": {
        "market1501": "1ozRaDSQw_EQ8_93OUmjDbvLXw9TnfPer",
        "dukemtmcreid": "1IE3KRaTPp4OUa6PGTFL_d5_KQSJbP0Or",
        "msmt17": "1QEGO6WnJ-BmUzVPd3q9NoaO_GsPNlmWc",
        "msmt17_combineall": "1fhjSS_7SUGCioIf2SWXaRGPqIY9j7-uw",
    },
    "osnet_x0_5": {
        "market1501": "1PLB9rgqrUM7blWrg4QlprCuPT7ILYGKT",
        "dukemtmcreid": "1KoUVqmiST175hnkALg9XuTi1oYpqcyTu",
        "msmt17": "1UT3AxIaDvS2PdxzZmbkLmjtiqq7AIKCv",
        "msmt17_combineall": "1DHgmb6XV4fwG3n-CnCM0zdL9nMsZ9_RF",
    },
    "osnet_x0_25": {
        "market1501": "1z1UghYvOTtjx7kEoRfmqSMu-z62J6MAj",
        "dukemtmcreid": "1eumrtiXT4NOspjyEV4j8cHmlOaaCGk5l",
        "msmt17": "1sSwXSUlj4_tHZequ_iZ8w_Jh0VaRQMqF",
        "msmt17_combineall": "1Kkx2zW89jq_NETu4u42CFZTMVD5Hwm6e",
    },
    "osnet_ibn_x1_0": {
        "market1501": "1uWW7_z_IcUmRNPqQOrEBdsvic94fWH37",
        "dukemtmcreid": "1CNxL1IP0BjcE1TSttiVOID1VNipAjiF3",
        "msmt17_combineall": "1q3Sj2ii34NlfxA4LvmHdWO_75NDRmECJ",
        "ms_d_c": "14sH6yZwuNHPTElVoEZ26zozOOZIej5Mf",
        "ms_m_c": "1Sk-2SSwKAF8n1Z4p_Lm_pl0E6v2WlIBn",
        "ms_d_m": "1actHP7byqWcK4eBE1ojnspSMdo7k2W4G",
        "d_m_c": "1BGOSdLdZgqHe2qFafatb-5sPY40JlYfp",
    },
    "osnet_ain_x1_0": {
        "market1501": "14bNFGm0FhwHEkEpYKqKiDWjLNhXywFAd",
        "dukemtmcreid": "1hypJvq8G04SOby6jvF337GEkg5K_bmCw",
        "msmt17_combineall": "1SigwBE6mPdqiJMqhuIY4aqC7--5CsMal",
        "ms_d_c": "1nIrszJVYSHf3Ej8-j6DTFdWz8EnO42PB",
        "ms_m_c": "1YjJ1ZprCmaKG6MH2P9nScB9FL_Utf9t1",
        "ms_d_m": "1IxIg5P0cei3KPOJQ9ZRWDE_Mdrz01ha2",
        "d_m_c": "1KcoUKzLmsUoGHI7B6as_Z2fXL50gzexS",
    },
    "resnet50": {
        "market1501": "1dUUZ4rHDWohmsQXCRe2C_HbYkzz94iBV",
        "dukemtmcreid": "17ymnLglnc64NRvGOitY3BqMRS9UWd1wg",
        "msmt17": "1ep7RypVDOthCRIAqDnn4_N-UhkkFHJsj",
        "msmt17_combineall": "1yiBteqgIZoOeywE8AhGmEQl7FTVwrQmf",
    },
    "resnet50_fc512": {
        "market1501": "1kv8l5laX_YCdIGVCetjlNdzKIA3NvsSt",
        "dukemtmcreid": "13QN8Mp3XH81GK4BPGXobKHKyTGH50Rtx",
        "msmt17": "1fDJLcz4O5wxNSUvImIIjoaIF9u1Rwaud",
    },
    "mlfn": {
        "market1501": "1wXcvhA_b1kpDfrt9s2Pma-MHxtj9pmvS",
        "dukemtmcreid": "1rExgrTNb0VCIcOnXfMsbwSUW1h2L1Bum",
        "msmt17": "18JzsZlJb3Wm7irCbZbZ07TN4IFKvR6p-",
    },
    "hacnn": {
        "market1501": "1LRKIQduThwGxMDQMiVkTScBwR7WidmYF",
        "dukemtmcreid": "1zNm6tP4ozFUCUQ7Sv1Z98EAJWXJEhtYH",
        "msmt17": "1MsKRtPM5WJ3_Tk2xC0aGOO7pM3VaFDNZ",
    },
    "mobilenetv2_x1_0": {
        "market1501": "18DgHC2ZJkjekVoqBWszD8_Xiikz-fewp",
        "dukemtmcreid": "1q1WU2FETRJ3BXcpVtfJUuqq4z3psetds",
        "msmt17": "1j50Hv14NOUAg7ZeB3frzfX-WYLi7SrhZ",
    },
    "mobilenetv2_x1_4": {
        "market1501": "1t6JCqphJG-fwwPVkRLmGGyEBhGOf2GO5",
        "dukemtmcreid": "12uD5FeVqLg9-AFDju2L7SQxjmPb4zpBN",
        "msmt17": "1ZY5P2Zgm-3RbDpbXM0kIBMPvspeNIbXz",
    },
}

_COMBINEALL = (
    "_msmt17_combineall_256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_flip_"
    "jitter.pth"
)
_ON_HUB = {
    **{
        f"{arch}/msmt17_combineall": arch + _COMBINEALL
        for arch in ("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0")
    },
    "osnet_ain_x1_0/msmt17_combineall": "osnet_ain_x1_0_msmt17_256x128_amsgrad_ep50_lr0.0015_"
    "coslr_b64_fb10_softmax_labsmth_flip_jitter.pth",
}

# The authors publish none; these are what independent projects pin.
_SHA256 = {
    "osnet_x1_0/msmt17": "b7d73dc67c016fd044e4027ff856019496392a7aca8fa0ed56d862a1632c1cf2",
    "osnet_x1_0/msmt17_combineall":
        "48df972f72887b95cf3b43b3a07c3a7d2398381aea0f9cae64a7ef11d512b727",
    "osnet_x0_25/msmt17": "6f57607fed9f502b9efed546108132ee715df5a5b6e6932c6269bacb47f59f99",
    "osnet_x0_25/msmt17_combineall":
        "cf55163d78fc44c62c82f85ab62d39f10438679b5abe8c698ae08cfa84aa6e18",
    "osnet_ain_x1_0/msmt17_combineall":
        "8a07e8da38946f7cee37f4561617bf8b6d2fe8f3a4027852893ea092e46d919f",
}  # fmt: skip


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
    hub: str = ""
    sha256: str = ""

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
    found = []
    for arch, files in _DRIVE.items():
        for data, drive in files.items():
            key = f"{arch}/{data}"
            hub, sha256 = _ON_HUB.get(key, ""), _SHA256.get(key, "")
            found.append(PublishedModel(arch, data, drive, hub, sha256))
    return found


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
