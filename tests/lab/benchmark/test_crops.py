"""The crops are a dataset that torchreid reads, with enough images of everybody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.lab.benchmark.context import CAMERAS, read_data, write_target
from tests.lab.benchmark.tiny import tiny_context


def test_torchreid_finds_as_many_images_as_were_asked_for(tmp_path: Path) -> None:
    write_target(tmp_path, train=150, query=11, gallery=43)
    items = {
        split: bridge.dataset_split("market1501", tmp_path, split)
        for split in ("train", "query", "gallery")
    }
    assert {split: len(found) for split, found in items.items()} == {
        "train": 150, "query": 11, "gallery": 43
    }
    assert {camid for _, _, camid, _ in items["train"]} == set(range(CAMERAS))
    with Image.open(items["query"][0][0]) as image:
        assert (image.size, image.format) == ((64, 128), "JPEG")


@pytest.mark.parametrize("batches", [1, 3])
def test_a_batch_of_18_identities_with_4_images_can_be_drawn(tmp_path: Path, batches: int) -> None:
    write_target(tmp_path, train=72 * batches, query=1, gallery=1)
    images = Counter(pid for _, pid, _, _ in bridge.dataset_split("market1501", tmp_path, "train"))
    assert len(images) >= 18
    assert min(images.values()) >= 4


def test_crops_are_written_once_and_the_target_carries_no_identities(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    root = context.crops(72, 4, 12)
    (marker,) = [next(root.rglob("*_c1s1_000000_00.jpg"))]
    marker.write_bytes(marker.read_bytes() + b" ")
    size = marker.stat().st_size
    assert context.crops(72, 4, 12) == root
    assert marker.stat().st_size == size
    data = read_data(root)
    assert data.source.pids is not None and len(data.source) == 72
    assert data.target_train is not None and data.target_train.pids is None
