"""`embae extract`, `search` and `evaluate`: from crops to embeddings, neighbours and scores."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embae_plugin import ReID
from embae_plugin.commands import extract as extraction
from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import (
    EmbeddingTable,
    read_embeddings,
    texts,
    write_embeddings,
)
from embae_plugin.evaluation import evaluate_embeddings
from embae_plugin.evaluation import nearest as search
from embae_plugin.evaluation.nearest import nearest, unit_length
from tests.crops_world import write_checkpoint, write_crops


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint, 3 people on 2 cameras in 2 shots each, and their embeddings in e.npz."""
    root = tmp_path_factory.mktemp("extract")
    names = [p.relative_to(root).as_posix() for p in write_crops(root / "crops", 3, 2, 2)]
    write_checkpoint(root / "a.pth", seed=1, cameras=("cam_a", "cam_b"))
    lines = [f"{name},{name.split('/')[1]},{Path(name).name[:4]}" for name in names]
    (root / "crops.csv").write_text("path,camid,pid\n" + "\n".join(lines) + "\n")
    csv, out = str(root / "crops.csv"), str(root / "e.npz")
    assert main(["extract", "--checkpoint", str(root / "a.pth"), "--csv", csv, "--out", out]) == 0
    return root


@pytest.fixture
def world(base, tmp_path, monkeypatch) -> Path:
    shutil.copytree(base, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def extract(out: str, *more: str) -> int:
    return main(["extract", "--checkpoint", "a.pth", "--images", "crops", "--out", out, *more])


# --- extract --------------------------------------------------------------------------------


def test_embeddings_are_the_model_s(world):
    table = read_embeddings("e.npz")
    assert table.cameras.tolist() == ["cam_a"] * 6 + ["cam_b"] * 6
    assert table.pids.tolist() == ["0000", "0000", "0001", "0001", "0002", "0002"] * 2
    z = ReID.load("a.pth", "cpu").embed(table.paths.tolist(), cameras=table.cameras.tolist())
    np.testing.assert_allclose(table.embeddings, z, atol=1e-4)


def test_blocks_lengths_and_formats(world, caplog):
    pytest.importorskip("pyarrow")
    (world / "crops" / "cam_a" / "bad.png").write_bytes(b"")
    assert extract("o.parquet", "--block", "5", "--no-normalize", "--tta", "none") == 0
    table = read_embeddings("o.parquet")
    assert len(table) == 12 and table.pids is None
    paths = [str(table.file(row)) for row in range(12)]
    z = ReID.load("a.pth", "cpu").embed(
        paths, cameras=table.cameras.tolist(), normalize=False, tta="none"
    )
    np.testing.assert_allclose(table.embeddings, z, atol=1e-3, rtol=1e-3)
    assert "1 image(s) cannot be used" in caplog.text
    assert Path("o.parquet.skipped.txt").read_text().startswith("crops/cam_a/bad.png\t")
    assert not Path(".o.parquet.parts").exists()


def test_a_stopped_run_goes_on(world, monkeypatch, capsys):
    true, calls = extraction.embed_records, []

    def stops(*args, **kwargs):
        calls.append(args[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(*args, **kwargs)

    monkeypatch.setattr(extraction, "embed_records", stops)
    assert extract("o.npz", "--block", "5") == 130
    assert not Path("o.npz").exists() and Path(".o.npz.parts").is_dir()
    assert extract("o.npz", "--block", "5") == 0
    assert calls == ["block 1 of 3", "block 2 of 3", "block 2 of 3", "block 3 of 3"]
    same = np.allclose(
        read_embeddings("o.npz").embeddings, read_embeddings("e.npz").embeddings, atol=1e-5
    )
    assert same and not Path(".o.npz.parts").exists()
    assert extract("o.npz") == 2
    assert "o.npz exists" in capsys.readouterr().err


def test_parts_of_other_settings_are_not_used(world, monkeypatch):
    one = read_embeddings("e.npz")
    part = EmbeddingTable(one.paths[:1], one.cameras[:1], one.embeddings[:1], None, {"skipped": []})
    for other, rows in ((False, 1), (True, 12)):
        with monkeypatch.context() as patch:
            patch.setattr(extraction, "write_embeddings", None)
            with pytest.raises(TypeError):
                extract("o.npz", "--force")
        write_embeddings(".o.npz.parts/000000.npz", part)
        [job] = Path(".o.npz.parts").glob("*.job")
        job.rename(job.with_name("another.job") if other else job)
        assert extract("o.npz", "--force") == 0 and len(read_embeddings("o.npz")) == rows


@pytest.mark.parametrize(
    ("out", "flags", "message"),
    [
        ("o.csv", (), "ending in .npz or .parquet"),
        ("o.npz", ("--block", "0"), "--block 0: at least 1"),
        ("o.npz", ("--min-side", "999", "--block", "5"), "images cannot be used"),
    ],
)
def test_mistakes_leave_nothing(world, capsys, out, flags, message):
    before = set(os.listdir())
    assert extract(out, *flags) == 2
    said = capsys.readouterr().err
    assert message in said and set(os.listdir()) == before


def test_a_full_disk(world, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "write_embeddings", full)
        assert extract("o.npz") == 2
    assert "is full" in capsys.readouterr().err and not Path("o.npz").exists()


# --- search ---------------------------------------------------------------------------------


def ask(capsys, *flags: str) -> list[dict]:
    assert main(["search", "--gallery", "e.npz", *flags, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("with_faiss", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_hits_are_the_nearest_by_hand(world, capsys, monkeypatch, with_faiss, other):
    if with_faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(search, "faiss_or_none", lambda: None)
    flags = ["--other-cameras-only"] if other else []
    answers = ask(capsys, "--query", "e.npz", "--top", "4", *flags)
    table = read_embeddings("e.npz")
    similarity = table.embeddings @ table.embeddings.T
    np.fill_diagonal(similarity, -2)
    if other:
        similarity[table.cameras[:, None] == table.cameras[None]] = -2
    for row, answer in enumerate(answers):
        best = np.sort(similarity[row])[::-1][:4]
        np.testing.assert_allclose([hit["similarity"] for hit in answer["hits"]], best, atol=1e-5)
        for hit in answer["hits"]:
            found = table.paths.tolist().index(hit["path"])
            assert similarity[row, found] == pytest.approx(hit["similarity"], abs=1e-5)


def test_query_images_and_folders(world, capsys):
    by_image = ask(capsys, "--query", "crops/cam_a/0001_0.png", "--checkpoint", "a.pth",
                   "--query-camera", "cam_a", "--other-cameras-only")
    assert len(by_image) == 1 and {hit["camid"] for hit in by_image[0]["hits"]} == {"cam_b"}
    by_folder = ask(capsys, "--query", "crops", "--checkpoint", "a.pth", "--other-cameras-only")
    assert [answer["camid"] for answer in by_folder] == ["cam_a"] * 6 + ["cam_b"] * 6
    hits = {hit["path"] for hit in by_folder[2]["hits"]}
    assert hits == {hit["path"] for hit in by_image[0]["hits"]}


def test_the_page_and_the_table(world, capsys, caplog):
    os.remove("crops/cam_b/0002_1.png")
    flags = ["--query", "e.npz", "--gallery", "e.npz", "--html", "s.html", "--json", "s.json",
             "--images", ".", "--top", "11"]
    assert main(["search", *flags]) == 0
    page = Path("s.html").read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 144 - 12 and not re.search("https?:", page)
    assert page.count("no image") == 12 and "12 image(s) could not be read" in caplog.text
    first = base64.b64decode(pictures[0])
    Path("t.jpg").write_bytes(first)
    assert Image.open("t.jpg").size == (16, 32)
    assert len(json.loads(Path("s.json").read_text())) == 12
    table = capsys.readouterr().out
    assert "query" in table and "0001" in table and "crops/cam_b/0000_0.png" in table


def test_a_page_of_many_queries_is_cut(world, monkeypatch, caplog):
    monkeypatch.setattr("embae_plugin.commands.search._MOST", 5)
    assert main(["search", "--query", "e.npz", "--gallery", "e.npz", "--html", "s.html"]) == 0
    page = Path("s.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 5 and "the first 5 queries" in page
    assert "first 5 of 12 queries" in caplog.text


def test_names_cannot_break_the_page(world):
    table = read_embeddings("e.npz")
    table.paths = texts([f'<script>"{name}' for name in table.paths])
    write_embeddings("x.npz", table)
    assert main(["search", "--query", "x.npz", "--gallery", "x.npz", "--html", "s.html"]) == 0
    assert "<script>" not in Path("s.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query", "none.jpg", "--checkpoint", "a.pth"], "the query none.jpg does not exist"),
        (["--query", "crops"], "--checkpoint is needed"),
        (["--query", "crops/cam_a/0000_0.png", "--checkpoint", "a.pth", "--other-cameras-only"],
         "--query-camera"),
        (["--query", "e.npz", "--top", "0"], "--top 0: at least 1"),
        (["--query", "crops", "--checkpoint", "b.pth"], "different models"),
        (["--query", "wide.npz"], "the queries have 9 dimensions and the gallery 8"),
    ],
)
def test_searches_that_cannot_be(world, capsys, flags, message):
    write_checkpoint(world / "b.pth", seed=2)
    table = read_embeddings("e.npz")
    table.embeddings = np.ones((12, 9), np.float32)
    write_embeddings("wide.npz", table)
    assert main(["search", "--gallery", "e.npz", *flags]) == 2
    assert message in capsys.readouterr().err


def test_ivf_finds_nearly_all(caplog):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    gallery = unit_length(rng.normal(size=(4000, 8)).astype(np.float32))
    exact, _ = nearest(gallery[:50], gallery, 5)
    rows, similarity = nearest(gallery[:50], gallery, 5, index="ivf")
    assert (rows[:, 0] == np.arange(50)).all() and (np.diff(similarity) <= 1e-6).all()
    kept = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact, rows, strict=True)])
    assert kept > 0.7


def test_without_faiss_it_says_so(monkeypatch, caplog):
    def absent(name):
        raise ImportError(name)

    caplog.set_level("INFO")
    monkeypatch.setattr(search.importlib, "import_module", absent)
    z = np.eye(3, dtype=np.float32)
    rows, values = nearest(z[:1], z, 9, index="ivf")
    assert rows.shape == (1, 3) and rows[0, 0] == 0 and values[0].tolist() == [1, 0, 0]
    assert "pip install faiss-cpu" in caplog.text and "needs faiss" in caplog.text


def test_nothing_to_find():
    z = np.eye(3, dtype=np.float32)
    rows, values = nearest(z, z, 2, hidden=np.ones(3, bool))
    assert rows.shape == values.shape == (3, 0)


# --- evaluate -------------------------------------------------------------------------------


def test_scores_of_files(world, capsys):
    table = read_embeddings("e.npz")
    pids, cameras = table.pids.astype(int), table.cameras
    expected = evaluate_embeddings(
        table.embeddings, table.embeddings, pids, pids, cameras, cameras
    )
    for flags in (["--query", "e.npz"], ["--query", "e.npz", "--gallery", "e.npz"]):
        assert main(["evaluate", *flags, "--json", "s.json"]) == 0
        row = json.loads(Path("s.json").read_text())
        assert row["mAP"] == pytest.approx(expected["market"].mAP)
        assert row["rank1_nd"] == pytest.approx(expected["nd"].rank1)
    assert "Rank-1-nd" in capsys.readouterr().out


def test_files_without_identities(world, capsys):
    table = read_embeddings("e.npz")
    table.pids[:3] = ""
    write_embeddings("some.npz", table)
    assert main(["evaluate", "--query", "some.npz", "--json", "s.json"]) == 0
    assert json.loads(Path("s.json").read_text())["queries"] == 9
    table.pids[:6] = ["", "-1", "-1", "0", "0", "0"]
    write_embeddings("market.npz", table)
    assert main(["evaluate", "--query", "market.npz", "--json", "s.json"]) == 0
    assert json.loads(Path("s.json").read_text())["queries"] == 6
    table.pids = None
    write_embeddings("none.npz", table)
    assert main(["evaluate", "--query", "none.npz"]) == 2
    assert "none.npz holds no identities" in capsys.readouterr().err
    table = read_embeddings("e.npz")
    table.about["model"] = "another"
    write_embeddings("other.npz", table)
    assert main(["evaluate", "--query", "e.npz", "--gallery", "other.npz"]) == 2
    assert "come from different models" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "give either --query" in capsys.readouterr().err


def test_scores_on_a_data_set(root, finished, world, capsys):
    """What `embae train` wrote in its results, from the checkpoint of the stage."""
    flags = ["--checkpoint", str(finished / "transfer-cam"), "--root", str(root),
             "--config-file", str(finished / "config.yaml"), "--json", "s.json"]
    assert main(["evaluate", *flags]) == 0
    row = json.loads(Path("s.json").read_text())
    rows = json.loads((finished / "results.json").read_text())["rows"]
    expected = next(r for r in rows if r["variant"] == "cam")
    assert row["mAP"] == pytest.approx(expected["mAP"], abs=1e-4)
    assert row["rank1_nd"] == pytest.approx(expected["rank1_nd"], abs=1e-4)
