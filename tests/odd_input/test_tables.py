"""Embedding files whose columns are odd: used as they are meant, or refused with their name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.data.samplers import CameraBalancedSampler, RandomDatasetIdentitySampler
from tests.odd_input.world import refused

N, D = 8, 4
Z = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
GOOD = {
    "path": np.array([f"c{n % 2}/{n}.png" for n in range(N)]),
    "camid": np.array([f"c{n % 2}" for n in range(N)]),
    "pid": np.array([str(1 + n // 4) for n in range(N)]),
    "embedding": Z,
    "about": np.array(json.dumps({"model": "m"})),
}


def write(file, **changes):
    columns = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    np.savez(file, **columns)
    return file


BAD_COLUMNS = {
    "embedding": [Z[:, 0], Z[:, None], Z[:3], Z[:, :0], np.float32(1), Z > 0, Z.astype(complex),
                  Z.astype(str), np.full((N, D), None), None],
    "camid": [np.arange(N) / 2, np.full(N, np.nan), GOOD["camid"][:, None], np.array("c"),
              GOOD["camid"][:2], GOOD["camid"].astype("S"), np.full(N, None), None],
    "pid": [np.arange(N) / 2, GOOD["pid"][:2], np.r_[GOOD["pid"], GOOD["pid"]],
            GOOD["pid"][:, None], np.array("p"), np.arange(N) > 2],
    "path": [np.arange(N) / 2, GOOD["path"][:, None], np.array("p"), GOOD["path"][:1], None],
    "about": [np.array("[]"), np.array("null"), np.array("{"), np.array('"x"'), np.arange(2),
              np.array("[" * 100_000)],
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_columns_that_cannot_be(tmp_path, capsys, name):
    good = write(tmp_path / "good.npz")
    for column in BAD_COLUMNS[name]:
        bad = write(tmp_path / "bad.npz", **{name: column})
        assert "bad.npz" in refused(capsys, "evaluate", "--query", bad)
        assert "bad.npz" in refused(capsys, "search", "--query", good, "--gallery", bad)
        assert "bad.npz" in refused(capsys, "report", "--before", good, "--after", bad,
                                    "--out", tmp_path / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npz", "good.npz"]


@pytest.mark.parametrize("cameras", [[0, 1], [-1, -2], [2**62, -(2**62)], [7, 10**6], ["ä", "ü ö"],
                                     ["0", "00"]], ids=str)
def test_cameras_of_any_name_score_alike(tmp_path, capsys, cameras):
    """Ids negative, sparse, huge or text: the same crops, the same scores."""
    wanted = write(tmp_path / "good.npz")
    odd = write(tmp_path / "odd ä.npz", camid=np.array([cameras[n % 2] for n in range(N)]))
    scores = []
    for path in (wanted, odd):
        assert main(["evaluate", "--query", str(path), "--json", f"{tmp_path}/s.json"]) == 0
        row = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
        scores.append({key: value for key, value in row.items() if key != "variant"})
    assert scores[0] == scores[1] and scores[0]["queries"] == N
    search = ["search", "--query", str(odd), "--gallery", str(odd), "--other-cameras-only"]
    assert main([*search, "--json", f"{tmp_path}/h.json"]) == 0
    for answer in json.loads((tmp_path / "h.json").read_text(encoding="utf-8")):
        assert {hit["camid"] for hit in answer["hits"]} == {str(c) for c in cameras} - {
            answer["camid"]}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_embeddings_that_are_no_numbers(tmp_path, capsys, value, side):
    broken = Z.astype(np.float64)
    broken[3, 1] = value
    files = {"query": write(tmp_path / "q.npz"), "gallery": write(tmp_path / "g.npz")}
    write(files[side], embedding=broken)
    error = refused(capsys, "search", "--query", files["query"], "--gallery", files["gallery"],
                    "--json", tmp_path / "j")
    assert str(GOOD["path"][3]) in error and not (tmp_path / "j").exists()
    refused(capsys, "evaluate", "--query", files["query"], "--gallery", files["gallery"])


def test_paths_that_come_twice(tmp_path, capsys):
    twice = write(tmp_path / "t.npz", path=np.full(N, "a.png"))
    error = refused(capsys, "report", "--before", twice, "--after", twice, "--out", tmp_path / "r")
    assert "t.npz holds a path twice" in error and not (tmp_path / "r").exists()
    assert main(["evaluate", "--query", str(twice)]) == 0  # scores need no names


def test_numbers_of_a_parquet_file_keep_their_value(tmp_path):
    """Camera 0 is a camera; only what is absent becomes the empty name."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"path": ["a", "b"], "camid": [0, 1], "pid": [0, None], "embedding": Z[:2].tolist()}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    table = read_embeddings(tmp_path / "x.parquet")
    assert table.cameras.tolist() == ["0", "1"] and table.pids.tolist() == ["0", ""]
    np.testing.assert_array_equal(table.embeddings, Z[:2])


@pytest.mark.parametrize("embedding", [[[1.0], [1.0, 2.0]], [1.0, 2.0], ["a", "b"], [None, [1.0]]])
def test_parquet_columns_that_cannot_be(tmp_path, embedding):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"path": ["a", "b"], "camid": ["c", "d"], "embedding": embedding}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet"):
        read_embeddings(tmp_path / "x.parquet")


few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
ids = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**62), 2**62]))


@few
@given(st.lists(st.tuples(ids, ids, st.integers(0, 1)), max_size=10), st.integers(-2, 8),
       st.integers(-1, 4))
def test_samplers(items, batch_size, num_instances):
    source = [("x", *item) for item in items]
    for kind in (RandomDatasetIdentitySampler, CameraBalancedSampler):
        try:
            sampler = kind(source, batch_size=batch_size, num_instances=num_instances)
        except ValueError as error:
            assert str(error)
            continue
        drawn = list(sampler)
        assert source and batch_size > 0 and len(drawn) == len(sampler)
        assert len(drawn) % batch_size == 0 and set(drawn) <= set(range(len(source)))
