"""Runs, reuse, interruption and missing data, with training replaced by fixed scores."""

from __future__ import annotations

import json

import pytest

from embae_plugin.lab.reproduction import runner
from embae_plugin.lab.reproduction.runner import (
    RECORD,
    Outcome,
    kept_scores,
    reproduce,
    run_job,
    table_results,
)
from tests.lab.reproduction.fakes import IMAGES, FakeTraining, paper_plan

DUKE = "dukemtmcreid-to-market1501"


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(runner, "look_at_data", lambda cfg: Outcome(IMAGES, "these"))


def ignore(outcomes) -> None:
    pass


def test_tables_are_filled_from_shared_runs(tmp_path, counted):
    plan, training = paper_plan(tmp_path), FakeTraining()
    outcomes = reproduce(plan, training, ignore)
    assert len(training.calls) == 8  # four runs for each of two seeds, not one for each table
    one, two, three, four = table_results(plan, outcomes)
    assert [table.number for table in (one, two, three, four)] == [1, 2, 3, 4]
    cam = one.rows[3][0]
    assert cam.values == pytest.approx((0.451, 0.452)) and cam.gain == pytest.approx(0.05)
    assert cam.difference == pytest.approx(0.4515 - 0.585)
    pul = three.rows[1][1]
    assert pul.values == pytest.approx((0.4710 / 2, 0.4720 / 2))
    assert pul.gain == pytest.approx(0.01 / 2) and pul.comparable
    assert one.seeds == (1, 2) and not one.differs and not three.notes


def test_second_call_reads_and_trains_nothing(tmp_path, counted):
    first = reproduce(paper_plan(tmp_path), FakeTraining(), ignore)
    training = FakeTraining()
    again = reproduce(paper_plan(tmp_path), training, ignore)
    assert training.calls == [] and again == first


def test_another_table_trains_only_what_is_not_there(tmp_path, counted):
    reproduce(paper_plan(tmp_path, tables=(3,), seeds=(1,)), FakeTraining(), ignore)
    training = FakeTraining()
    reproduce(paper_plan(tmp_path, tables=(1,), seeds=(1, 2)), training, ignore)
    assert training.calls == [(f"{DUKE}-seed1", 1, ["baseline", "fix", "new", "cam"]),
                              (f"{DUKE}-seed2", 2, ["baseline", "fix", "new", "cam"])]
    # The other way round, what an earlier call made is scored along, so results.json keeps it.
    training = FakeTraining()
    more = paper_plan(tmp_path, tables=(1,), seeds=(1,), all_variants=True)
    reproduce(more, training, ignore)
    everything = ["baseline", "all", "fix", "new", "dataset", "cam"]
    assert training.calls == [(f"{DUKE}-seed1", 1, everything)]
    reproduce(paper_plan(tmp_path, seeds=(1,), tables=(1,)), training, ignore)
    assert len(training.calls) == 1


def test_other_settings_are_not_reused(tmp_path, counted):
    reproduce(paper_plan(tmp_path, tables=(1,)), FakeTraining(), ignore)
    training = FakeTraining()
    changed = paper_plan(tmp_path, tables=(1,), options=["train.lr", "0.5"])
    reproduce(changed, training, ignore)
    assert len(training.calls) == 2
    moved = paper_plan(tmp_path, tables=(1,), options=["train.lr", "0.5"], root="elsewhere")
    reproduce(moved, training, ignore)  # where the data lie changes no score
    assert len(training.calls) == 2


def test_scores_made_with_other_images_or_other_code_are_not_reused(tmp_path, monkeypatch, caplog):
    job, training = paper_plan(tmp_path, tables=(1,)).jobs[0], FakeTraining()
    assert run_job(job, training, "these")[1]
    rows, trained = run_job(job, training, "these")
    assert not trained and rows == kept_scores(job, "these") != []
    changed = "as many others"
    assert kept_scores(job, changed) == []
    assert "made with other settings, images or code" in caplog.text
    assert run_job(job, training, changed)[1] and len(training.calls) == 2
    monkeypatch.setattr(runner, "code_fingerprint", lambda: "another")
    assert kept_scores(job, changed) == []
    assert run_job(job, training, changed)[1] and not run_job(job, training, changed)[1]


def test_the_code_s_fingerprint_changes_with_any_module_of_the_package(tmp_path, monkeypatch):
    now = runner.code_fingerprint.__wrapped__
    monkeypatch.setattr(runner.embae_plugin, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "room").mkdir()
    found = [now()]
    for text in ("a = 1", "a = 2"):
        (tmp_path / "room" / "module.py").write_text(text)
        found.append(now())
    (tmp_path / "room" / "module.py").rename(tmp_path / "room" / "other.py")
    assert len({*found, now()}) == 4
    (tmp_path / "room" / "notes.txt").write_text("no code")
    assert now() == now()


def test_a_record_that_is_damaged_or_of_an_older_kind_is_not_reused(tmp_path, caplog):
    job = paper_plan(tmp_path, tables=(1,)).jobs[0]
    run_job(job, FakeTraining(), "these")
    for text in ("{", "[]", json.dumps({"settings": {}, "version": "0.1.0", "rows": [{}]})):
        (job.folder / RECORD).write_text(text)
        assert kept_scores(job, "these") == []
    assert caplog.text.count("is damaged, or of an older kind") == 3


def test_an_interrupted_run_leaves_no_scores(tmp_path):
    job = paper_plan(tmp_path, tables=(1,)).jobs[0]
    with pytest.raises(KeyboardInterrupt):
        run_job(job, FakeTraining(KeyboardInterrupt(), at=1), "these")
    assert kept_scores(job, "these") == []
    assert run_job(job, FakeTraining(), "these")[1] and kept_scores(job, "these")


def test_an_interrupted_reproduction_has_published_what_was_done(tmp_path, counted):
    plan, seen = paper_plan(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, FakeTraining(KeyboardInterrupt(), at=2),
                  lambda outcomes: seen.append(table_results(plan, outcomes)))
    assert [(t.number, t.seeds, t.wanted) for t in seen[-1]] == [
        (1, (1,), (1, 2)), (2, (), (1, 2)), (3, (1,), (1, 2)), (4, (), (1, 2)),
    ]
    training = FakeTraining()
    reproduce(plan, training, ignore)
    assert len(training.calls) == 7


def test_missing_data_stop_only_their_own_tables(tmp_path, monkeypatch):
    def count(cfg):
        if "cuhk03" in cfg.data.sources:
            return Outcome(missing="dataset 'cuhk03': looked for /x/cuhk03, which is not there")
        return Outcome(IMAGES, "these")

    monkeypatch.setattr(runner, "look_at_data", count)
    plan, training = paper_plan(tmp_path), FakeTraining()
    tables = table_results(plan, reproduce(plan, training, ignore))
    assert {name.rpartition("-seed")[0] for name, *_ in training.calls} == {DUKE, f"{DUKE}-pul"}
    assert [bool(table.missing) for table in tables] == [False, True, False, True]
    assert "/x/cuhk03" in tables[1].missing
    assert tables[1].rows[0][0].published == 0.528


def test_real_missing_data_name_folder_and_source(tmp_path):
    plan = paper_plan(tmp_path / "out", tables=(1,), root=str(tmp_path))
    table = table_results(plan, reproduce(plan, FakeTraining(), ignore))[0]
    assert str(tmp_path / "dukemtmc-reid") in table.missing and "withdrawn" in table.missing


def test_a_failing_run_stops_no_other(tmp_path, counted):
    error = OSError("no network; fetch resnet50")
    plan, training = paper_plan(tmp_path, tables=(3,)), FakeTraining(error, at=2)
    outcomes = reproduce(plan, training, ignore)
    # Run 2 is PUL's with seed 1; it is not tried again with seed 2, EmbAE is.
    assert [name for name, *_ in training.calls] == [
        f"{DUKE}-seed1", f"{DUKE}-pul-seed1", f"{DUKE}-seed2"]
    table = table_results(plan, outcomes)[0]
    assert table.notes == (f"{DUKE}-pul failed: no network; fetch resnet50",)
    assert [len(row[0].values) for row in table.rows] == [0, 0, 2, 2]


def test_other_errors_are_raised(tmp_path, counted):
    with pytest.raises(ValueError, match="other settings"):
        reproduce(paper_plan(tmp_path), FakeTraining(ValueError("other settings"), 1), ignore)
