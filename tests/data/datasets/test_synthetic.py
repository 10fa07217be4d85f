"""The built-in cameras through torchreid's eyes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.datasets.catalog import SPECS
from embae_plugin.data.datasets.generation import METADATA, generate
from embae_plugin.data.datasets.synthetic import (
    SyntheticSourceA,
    SyntheticSourceB,
    SyntheticTarget,
)

TINY = 0.03
CLASSES = {c.dataset_dir: c for c in (SyntheticSourceA, SyntheticSourceB, SyntheticTarget)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reid-data")
    for name in SPECS:
        generate(name, folder, TINY, workers=1)
    return folder


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_torchreids_conventions(name, root):
    dataset = CLASSES[name](root=str(root), verbose=False)
    pids = {pid for _, pid, _, _ in dataset.train}
    assert pids == set(range(dataset.num_train_pids)) and len(pids) >= 4
    assert {camid for _, _, camid, _ in dataset.train} == set(range(len(SPECS[name].cameras)))
    assert {pid for _, pid, _, _ in dataset.query} <= {pid for _, pid, _, _ in dataset.gallery}
    files = [path for items in (dataset.train, dataset.query, dataset.gallery)
             for path, *_ in items]
    drawn = {str(p) for p in root.joinpath(name).rglob("*") if p.suffix in (".jpg", ".png")}
    assert len(files) == len(drawn) and set(files) == drawn
    everything = CLASSES[name](root=str(root), verbose=False, combineall=True)
    junk = sum(pid == 0 for _, pid, _, _ in dataset.gallery if name == "synthetic_target")
    assert len(everything.train) == len(files) - junk


def test_every_query_can_be_found_by_another_camera(root):
    for cls in CLASSES.values():
        dataset = cls(root=str(root), verbose=False)
        gallery = np.array([item[1:3] for item in dataset.gallery])
        for _, pid, camid, _ in dataset.query:
            assert np.any((gallery[:, 0] == pid) & (gallery[:, 1] != camid))


def test_drawn_on_first_use(tmp_path):
    dataset = SyntheticSourceB(root=str(tmp_path), scale=TINY, seed=5, verbose=False)
    assert (tmp_path / "synthetic_source_b" / METADATA).is_file()
    again = SyntheticSourceB(root=str(tmp_path), verbose=False)  # taken as it is
    assert again.train == dataset.train
    with pytest.raises(ValueError, match="drawn with seed 5, but seed 0 is wanted"):
        SyntheticSourceB(root=str(tmp_path), seed=0, verbose=False)


@pytest.mark.parametrize("name", ["synthetic_source_a", "synthetic_source_b"])
def test_missing_images_are_reported(name, tmp_path):
    folder = generate(name, tmp_path, TINY, workers=1)
    victim = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))[0]
    victim.unlink()
    with pytest.raises(FileNotFoundError, match=r"is damaged: it lacks 1 of .*Remove the folder"):
        CLASSES[name](root=str(tmp_path), verbose=False)


def test_torchreids_data_manager_loads_them(root):
    manager = bridge.build_datamanager(
        root=str(root), sources=["synthetic_source_a", "synthetic_source_b"],
        targets=["synthetic_target"], height=128, width=64, batch_size_train=4,
        batch_size_test=4, workers=0, use_gpu=False, load_train_targets=True,
    )
    batch = next(iter(manager.train_loader))
    assert batch["img"].shape == (4, 3, 128, 64)
    assert manager.num_train_cams == 7
    assert len(manager.test_loader["synthetic_target"]["query"].dataset) > 5
