"""The programs that the page on trackers has for other packages run, where those are installed."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from embae_plugin.export.torchreid_files import write_torchreid_files
from tests.crops_world import write_checkpoint, write_crops
from tests.export.torchreid_bundles import (
    bundle_of,
    random_network,
    suit_deep_sort,
    with_cameras,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use_in_a_tracker.md"
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
PACKAGES = ("boxmot", "deep_sort_realtime", "reid", "torchreid", "ultralytics")


def package_of(snippet: str) -> str:
    """The one it is for."""
    [name] = {n for n in re.findall(r"^\s*from (\w+)", snippet, re.M) if n in PACKAGES}
    return name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trackers")
    write_crops(root / "crops", 2, 2)
    for crop in (root / "crops").rglob("*.png"):
        crop.rename(crop.with_suffix(".jpg"))
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    cv2.imwrite(str(root / "frame.jpg"), noise)
    model = with_cameras(random_network().state_dict(), ("cam_a", "cam_b"))
    write_torchreid_files(bundle_of(model), root / "adapted" / "torchreid")
    write_checkpoint(root / "adapted" / "adapted.pth", 1, ("cam_a", "cam_b"))
    return root


def test_each_package_has_a_snippet():
    assert {package_of(snippet) for snippet in SNIPPETS} == set(PACKAGES)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=package_of)
def test_a_snippet(snippet, world, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    pytest.importorskip(package_of(snippet))
    suit_deep_sort(monkeypatch)
    monkeypatch.chdir(world)
    names: dict[str, object] = {"__name__": "a page"}
    exec(compile(snippet, str(PAGE), "exec"), names)
    features = names.get("features")
    assert features is None or (features.shape == (1, 512) and float(abs(features).max()) > 0)
