"""Each crop is decoded once, however many cameras, rounds and passes there are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from embae_plugin.commands.main import main
from embae_plugin.data import image_bank, single_images
from embae_plugin.data.camera_rules import list_crops
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.embedder import embed_records
from embae_plugin.models.door import open_model
from tests.crops_world import INPUT, followed, tiny_embae, write_checkpoint, write_crops
from tests.threads import one_thread

__all__ = ["one_thread"]

CAMERAS = ("cam_a", "cam_b", "cam_c")


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()
    decode = image_bank.decode

    def counting(path: str, *rest: int) -> np.ndarray:
        counts[Path(path).name + "@" + Path(path).parent.name] += 1
        return decode(path, *rest)

    monkeypatch.setattr(image_bank, "decode", counting)
    monkeypatch.setattr(single_images, "decode", counting)
    return counts


def once(decoded: Counter[str], files: int) -> bool:
    return len(decoded) == files and set(decoded.values()) == {1}


@pytest.fixture
def crops(tmp_path) -> Path:
    write_crops(tmp_path / "crops", people=3, cameras=3, each=4)
    return tmp_path / "crops"


@pytest.mark.parametrize("keep", [True, False])
def test_by_the_features_of_a_model_of_three_cameras(crops, decoded, keep):
    model, records = tiny_embae(cameras=CAMERAS), list_crops(crops).records()
    store = FeatureStore.of(INPUT)
    made = store.features(model, records, "crops", keep=keep)
    assert once(decoded, 36)
    (bank,) = store._images.values()  # one bank, of whose rows each camera takes its own
    assert len(bank) == 36
    embed_records(model, store, records, "crops", tta="none")
    plain = tiny_embae(1)
    store.features(plain, records, "crops")
    store.features(tiny_embae(2, CAMERAS[:2]), records, "crops")
    assert once(decoded, 36)
    assert not torch.allclose(made, store.features(plain, records, "crops"), rtol=1e-2)


@pytest.mark.parametrize("method", ["trunk", "heads", "norm"])
def test_by_an_adaptation(crops, tmp_path, decoded, method):
    (crops / "cam_b" / "bad.png").write_bytes(b"none")
    eps = "0.4" if method == "heads" else "0.55"
    options = followed(
        method, "embae.adapt.largest_cluster", "1", "embae.clusters.eps", eps,
        "embae.clusters.min_samples", "2", "embae.clusters.k1", "3", "embae.clusters.rounds", "2",
        "embae.clusters.batch_size", "8", "embae.clusters.num_instances", "2",
        "embae.clusters.trunk_rounds", "2", "embae.adapt.flip_fall", "2",  # weights are random
        "embae.embedding.precision", "float32",  # bf16 fails on maps of a pixel
    )
    source, out = write_checkpoint(tmp_path / "source.pth"), tmp_path / "out"
    assert main(["adapt", "--checkpoint", str(source), "--images", str(crops), "--out", str(out),
                 "embae.adapt.method", method, *options]) == 0
    summary = json.loads((out / "summary.json").read_text())["method"]
    assert method == "norm" or ("2 rounds of pseudo-labels" in summary["method"]), summary
    assert once(decoded, 37)
    assert open_model(tmp_path / "out").camera_names == CAMERAS
    assert len(read_embeddings(tmp_path / "out" / "after.npz")) == 36


@pytest.mark.parametrize("block", [8192, 10])
def test_by_an_extraction(crops, tmp_path, decoded, block):
    model, out = write_checkpoint(tmp_path / "a.pth", cameras=CAMERAS), str(tmp_path / "e.npz")
    assert main(["extract", "--checkpoint", str(model), "--images", str(crops), "--out", out,
                 "--block", str(block)]) == 0
    assert once(decoded, 36)
    table = read_embeddings(out)
    assert table.cameras.tolist() == [name for name in CAMERAS for _ in range(12)]


def test_counting_sees_a_second_pass(crops, decoded):
    """What is asserted above can fail."""
    records = list_crops(crops).records()
    for _ in range(2):
        FeatureStore.of(INPUT).images(records, "crops")
    assert not once(decoded, 36) and set(decoded.values()) == {2}
