"""Two files become rows of the same crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embae_plugin.data.embedding_files import read_embeddings, write_embeddings
from embae_plugin.report_page import read_pair


def test_rows_are_matched_by_path(folder, pair):
    old, new = read_embeddings(folder / "before.npz"), read_embeddings(folder / "after.npz")
    assert old.paths.tolist() != new.paths.tolist()
    for row in (0, 7, 20):
        there = new.paths.tolist().index(pair.paths[row])
        np.testing.assert_array_equal(pair.after[row], new.embeddings[there])
        assert pair.camera_names[pair.cameras[row]] == new.cameras[there]
        assert pair.pid_names[pair.pids[row]] == new.pids[there]
    assert pair.leave_one_out and pair.labelled and len(pair.query) == len(pair) == 48


def test_identities_that_are_nobody(folder, tmp_path):
    for name in ("before", "after"):
        table = read_embeddings(folder / f"{name}.npz")
        pids = table.pids.copy()
        for pid, name_of_nobody in (("0003", "-1"), ("0004", ""), ("0005", "0")):
            pids[table.pids == pid] = name_of_nobody
        write_embeddings(tmp_path / f"{name}.npz", replace(table, pids=pids))
    pair = read_pair(tmp_path / "before.npz", tmp_path / "after.npz")
    assert len(pair.pid_names) == 5 and (pair.pids == -1).sum() == 18
    assert len(pair.query) == 30 and len(pair.gallery) == 36  # "0" are distractors


def test_lists_of_query_and_gallery(folder, pair, tmp_path):
    (tmp_path / "q.txt").write_text(f"{pair.paths[3]}\n\n{pair.paths[9]}\n", encoding="utf-8")
    (tmp_path / "g.txt").write_text("\n".join(pair.paths[10:20]), encoding="utf-8")
    files = (folder / "before.npz", folder / "after.npz")
    chosen = read_pair(*files, tmp_path / "q.txt", tmp_path / "g.txt")
    assert chosen.query.tolist() == [3, 9] and chosen.gallery.tolist() == list(range(10, 20))
    assert not chosen.leave_one_out
    (tmp_path / "bad.txt").write_text("no such crop\n")
    with pytest.raises(ValueError, match="1 paths are not embedded, such as no such crop"):
        read_pair(*files, tmp_path / "bad.txt", tmp_path / "g.txt")
    with pytest.raises(ValueError, match="belong together"):
        read_pair(*files, tmp_path / "q.txt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_pair(*files, tmp_path / "q.txt", tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: replace(t, paths=np.char.add(t.paths, "x")), "not of the same crops"),
        (lambda t: replace(t, paths=np.repeat(t.paths[:1], len(t))), "holds a path twice"),
        (lambda t: replace(t, cameras=t.cameras[::-1]), "name other cameras for"),
        (lambda t: replace(t, pids=np.char.add(t.pids, "9")), "name other identities for 48"),
        (lambda t: replace(t, embeddings=t.embeddings * np.nan), "not finite"),
    ],
)
def test_files_that_do_not_belong_together(folder, tmp_path, change, said):
    write_embeddings(tmp_path / "after.npz", change(read_embeddings(folder / "after.npz")))
    with pytest.raises(ValueError, match=said):
        read_pair(folder / "before.npz", tmp_path / "after.npz")
