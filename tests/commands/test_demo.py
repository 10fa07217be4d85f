"""What `embae demo` leaves beside the run's own files: the report on the target."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from embae_plugin.commands import demo
from embae_plugin.commands.main import main
from embae_plugin.data.embedding_files import read_embeddings
from embae_plugin.data.records import load_data
from embae_plugin.lab.commands.ablate import config_of
from embae_plugin.report_page import read_pair


@pytest.fixture(scope="module")
def out(root, finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    (out / "run").symlink_to(finished)
    demo.write_report(out, load_data(config_of(finished, str(root))))
    return out


def test_the_report_shows_the_scores_of_the_run(out, finished):
    rows = json.loads((finished / "results.json").read_text(encoding="utf-8"))["rows"]
    scores = {row["variant"]: row for row in rows}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The built-in cameras before and after" in page and page.count("data:image/jpeg") > 10
    for name in ("rank1", "mAP", "rank1_nd", "mAP_nd"):
        cells = [f"<td>{scores[variant][name]:.3f}</td>" for variant in ("baseline", "new")]
        assert "".join(cells) in page, name


def test_its_embeddings_can_be_reported_again(out, root, finished):
    files = [out / name for name in ("before.npz", "after.npz", "query.txt", "gallery.txt")]
    pair, data = read_pair(*files), load_data(config_of(finished, str(root)))
    assert (len(pair.query), len(pair.gallery)) == (len(data.query), len(data.gallery))
    known = [pair.pid_names[pair.pids[row]] for row in pair.query]
    assert known == [str(pid) for pid in data.query.pids]
    table = read_embeddings(files[0])
    assert all(table.file(row).is_file() for row in range(len(table)))
    assert not np.allclose(table.embeddings, read_embeddings(files[1]).embeddings)
    words = ["--before", str(files[0]), "--after", str(files[1]), "--query", str(files[2])]
    again = out / "again.html"
    words += ["--gallery", str(files[3]), "--out", str(again), "--map", "pca"]
    assert main(["report", *words, "--title", "The built-in cameras before and after"]) == 0
    assert again.read_bytes() == (out / "report.html").read_bytes()


def test_nothing_to_compare(out, root, finished, tmp_path, caplog):
    data = load_data(config_of(finished, str(root)))
    with caplog.at_level(logging.INFO):
        demo.write_report(tmp_path, data)
        demo.write_report(out, replace(data, query=None))
    assert caplog.text.count("no report: it compares the models") == 2
    assert not list(tmp_path.iterdir())
