"""Drawing the built-in sets: deterministic, complete or absent, never mixed up."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embae_plugin.data.datasets import generation
from embae_plugin.data.datasets.catalog import SPECS, find_spec
from embae_plugin.data.datasets.generation import METADATA, generate, read_metadata
from embae_plugin.data.datasets.shots import Shot, names, plan, scaled, take

TINY = 0.02


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_same_bytes_whatever_the_number_of_workers(name, tmp_path):
    one = contents(generate(name, tmp_path / "one", TINY, workers=1))
    two = contents(generate(name, tmp_path / "two", TINY, workers=2))
    assert one == two


def test_another_seed_is_another_set():
    spec = SPECS["synthetic_source_b"]
    shot = Shot("train", 1, 1, 0, 0)
    first, same, other = (np.asarray(take(spec, seed, shot)) for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert plan(spec, 0) != plan(spec, 1)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_plan_of_a_whole_set(name):
    spec = SPECS[name]
    shots = plan(spec, 0)
    people = {s: {shot.person for shot in shots if shot.subset == s and shot.pid} for s in
              ("train", "query", "gallery")}
    assert people["query"] == people["gallery"] and not people["train"] & people["query"]
    assert (len(people["train"]), len(people["query"])) == (spec.train_ids, spec.test_ids)
    assert sum(shot.pid == 0 for shot in shots) == spec.distractors
    queries = Counter((s.person, s.camera) for s in shots if s.subset == "query")
    assert set(queries.values()) == {1}
    for subset in ("train", "query"):
        cameras = Counter(p for p, _ in {(s.person, s.camera) for s in shots if s.subset == subset})
        assert min(cameras.values()) >= 2  # somebody seen once only could never be found again
    for s in shots:
        _, high = spec.train_images[s.camera] if s.subset == "train" else spec.gallery_images
        assert s.step < high + (s.subset != "train")
    per_camera = Counter(s.camera for s in shots if s.subset == "train")
    assert set(per_camera) == set(range(len(spec.cameras)))
    assert max(per_camera.values()) > 1.15 * min(per_camera.values())
    assert len(set(names(spec, shots))) == len(shots)


def test_sizes_of_the_sets_as_published():
    counts = {name: Counter(s.subset for s in plan(SPECS[name], 0)) for name in SPECS}
    assert 1500 <= counts["synthetic_source_a"]["train"] <= 2100
    assert 800 <= counts["synthetic_source_b"]["train"] <= 1000
    assert 1400 <= counts["synthetic_target"]["train"] <= 1800
    assert 450 <= counts["synthetic_target"]["query"] <= 600
    assert 1300 <= counts["synthetic_target"]["gallery"] <= 1800


def test_layouts_sizes_and_metadata(tmp_path):
    market = generate("synthetic_target", tmp_path, TINY, workers=1)
    assert market == tmp_path / "synthetic_target"
    folders = {p.name for p in market.iterdir()}
    assert folders == {"bounding_box_train", "query", "bounding_box_test", METADATA}
    picture = next((market / "query").glob("0*_c[1-6]s1_000001_00.jpg"))
    assert Image.open(picture).size == (64, 128)
    ward = generate("synthetic_source_b", tmp_path, TINY, workers=1)
    image = ward / "000100010001.png"
    assert Image.open(image).size == (48, 128) and Image.open(image).mode == "RGB"
    metadata = json.loads((ward / METADATA).read_text())
    shots = plan(scaled(SPECS["synthetic_source_b"], TINY), 0)
    assert len(shots) == len(list(ward.glob("*.png")))
    made = (metadata["name"], metadata["seed"], metadata["scale"])
    assert made == ("synthetic_source_b", 0, TINY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["synthetic_source_b", "synthetic_target"]


def test_an_existing_set_is_kept(tmp_path):
    folder = generate("synthetic_source_b", tmp_path, TINY, workers=1)
    stamp = (folder / METADATA).stat().st_mtime_ns
    assert generate("synthetic_source_b", str(tmp_path), TINY) == folder
    assert (folder / METADATA).stat().st_mtime_ns == stamp


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate("synthetic_source_b", tmp_path, TINY, workers=1)
    assert list(tmp_path.iterdir()) == []
    generate("synthetic_source_b", tmp_path, TINY, workers=1)


def test_a_killed_draft_is_never_taken_for_the_set(tmp_path):
    (tmp_path / ".synthetic_source_b.1.abcd.tmp").mkdir()
    (tmp_path / "synthetic_source_b").mkdir()  # empty: made by hand, or by a mount
    folder = generate("synthetic_source_b", tmp_path, TINY, workers=1)
    assert (folder / METADATA).is_file()


def _generate(root: str) -> None:
    generate("synthetic_source_b", root, TINY, workers=1)


def test_processes_that_start_together_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_generate, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic_source_b"]
    alone = generate("synthetic_source_b", tmp_path / "alone", TINY, workers=1)
    assert contents(tmp_path / "synthetic_source_b") == contents(alone)


def test_somebody_faster_wins(tmp_path, monkeypatch):
    draw = generation._draw

    def overtaken(*args: object) -> None:
        draw(*args)
        monkeypatch.setattr(generation, "_draw", draw)
        generate("synthetic_source_b", tmp_path, TINY, seed=seeds.pop(), workers=1)
        monkeypatch.setattr(generation, "_draw", overtaken)

    seeds = [0]
    monkeypatch.setattr(generation, "_draw", overtaken)
    generate("synthetic_source_b", tmp_path, TINY, workers=1)
    seeds, tmp_path = [7], tmp_path / "differently"
    with pytest.raises(ValueError, match="drawn with seed 7, but seed 0 is wanted"):
        generate("synthetic_source_b", tmp_path, TINY, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic_source_b"]


def test_a_set_of_another_kind_is_refused(tmp_path, monkeypatch):
    folder = generate("synthetic_source_b", tmp_path, TINY, workers=1)
    with pytest.raises(ValueError, match=r"scale 0\.02, but scale 1\.0 is wanted\. Remove or ren"):
        generate("synthetic_source_b", tmp_path)
    with pytest.raises(ValueError, match="drawn with seed 0, but seed 3 is wanted"):
        generate("synthetic_source_b", tmp_path, TINY, seed=3)
    monkeypatch.setattr(generation, "VERSION", generation.VERSION + 1)
    with pytest.raises(ValueError, match=r"drawn with generator \d+, but generator \d+ is wanted"):
        read_metadata(folder)


@pytest.mark.parametrize("text", [None, "", "[]", '{"generator": 1}'])
def test_a_folder_of_somebody_else_is_refused(tmp_path, text):
    folder = tmp_path / "synthetic_target"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"precious")
    if text is not None:
        (folder / METADATA).write_text(text)
    with pytest.raises(ValueError, match=r"not made by the generator.*Remove or rename"):
        generate("synthetic_target", tmp_path, TINY)
    assert (folder / "photo.jpg").read_bytes() == b"precious"


def test_impossible_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"unknown built-in data set 'market'.*synthetic_target"):
        find_spec("market")
    with pytest.raises(ValueError, match=r"scale of synthetic_target is 0\.0, expected"):
        generate("synthetic_target", tmp_path, 0.0)
    with pytest.raises(ValueError, match="seed -1 must be >= 0"):
        generate("synthetic_target", tmp_path, TINY, seed=-1)
    with pytest.raises(ValueError, match="workers 0 >= 1"):
        generate("synthetic_target", tmp_path, TINY, workers=0)
    assert list(tmp_path.iterdir()) == []


def test_scale_keeps_enough_people():
    tiny, large = (scaled(SPECS["synthetic_target"], s) for s in (0.001, 2.0))
    assert (tiny.train_ids, tiny.test_ids, tiny.distractors) == (4, 3, 0)
    assert (large.train_ids, large.test_ids) == (300, 200)
