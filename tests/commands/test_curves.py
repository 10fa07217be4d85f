"""`embae curves` on run folders written by hand."""

from __future__ import annotations

import json

from embae_plugin.commands.main import main
from embae_plugin.evaluation.label_free import MEASURES
from tests.evaluation.test_seeds import write_run

PNG = b"\x89PNG\r\n\x1a\n"


def test_tables_and_a_picture_of_several_runs(tmp_path, capsys):
    folders = [str(write_run(tmp_path / str(seed), seed, 0.1 * seed, [0.3, 0.2 + 0.1 * seed]))
               for seed in (1, 2, 3)]
    page, picture = tmp_path / "out" / "curves.md", tmp_path / "out" / "curves.png"
    assert main(["curves", *folders, "--out", str(picture), "--tables", str(page)]) == 0
    assert picture.read_bytes()[:8] == PNG
    text = page.read_text(encoding="utf-8")
    assert "viper → market1501: mean ± standard deviation over 3 seeds (1, 2, 3)" in text
    assert "0.400 ± 0.100" in text and "+0.200 ± 0.000" in text and "best epochs" in text
    assert text.strip() in capsys.readouterr().err


def test_one_run_without_scored_epochs_has_a_table_but_nothing_to_draw(tmp_path, capsys):
    folder = write_run(tmp_path / "a", 7, 0.1)
    (folder / "history.json").unlink()
    assert main(["curves", str(folder)]) == 0
    printed = capsys.readouterr().err
    assert "one seed (7)" in printed and "best epochs" not in printed
    assert main(["curves", str(folder), "--out", str(tmp_path / "no.png")]) == 2
    assert "test.eval_freq 1" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["curves", str(tmp_path)]) == 2
    assert "results.json does not exist" in capsys.readouterr().err


def test_rules_to_stop_by_over_runs_of_any_data(tmp_path, capsys):
    folders = []
    for number, target in enumerate(("viper", "market1501")):
        folder = tmp_path / target
        folder.mkdir()
        scores = {"rank1": 0.5, "rank1_nd": 0.5, "mAP": 0.4, "mAP_nd": 0.4}
        rows = [{"variant": "baseline", **scores}]
        (folder / "results.json").write_text(
            json.dumps({"target": target, "sources": ["x"], "seed": 1, "rows": rows})
        )
        epochs = [{"phase": "embedding", "epoch": n, "reconstruction": 1.0, **scores,
                   **dict.fromkeys(MEASURES, float(n + number))} for n in (1, 2)]
        (folder / "history.json").write_text(json.dumps({"transfer-cam": epochs}))
        folders.append(str(folder))
    assert main(["curves", "--stopping", *folders]) == 0
    assert "2 curves of 2 run(s)" in capsys.readouterr().err
    assert main(["curves", "--stopping", *folders, "--out", str(tmp_path / "a.png")]) == 2
    assert "--stopping has tables alone" in capsys.readouterr().err
