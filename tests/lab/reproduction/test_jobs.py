"""Tables with the same data share their runs, and every run is one for `embae train`."""

from __future__ import annotations

import pytest

from embae_plugin.lab.reproduction.jobs import plan_jobs
from embae_plugin.lab.reproduction.preset import load_preset
from tests.lab.reproduction.fakes import paper_plan, write_preset

DUKE = "dukemtmcreid-to-market1501"
FOUR = "dukemtmcreid+cuhk03+viper+ward-to-market1501"


def test_paper_shares_runs_and_keeps_puls_network_apart(tmp_path):
    plan = paper_plan(tmp_path, seeds=(1, 2), root="data")
    found = [(job.key, job.seed, job.tables, job.rows) for job in plan.jobs]
    embae, pul = ("baseline", "fix", "new", "cam"), ("pul-baseline", "pul")
    kinds = [(DUKE, (1, 3), embae), (FOUR, (2, 4), embae), (f"{DUKE}-pul", (3,), pul),
             (f"{FOUR}-pul", (4,), pul)]
    assert sorted(found) == sorted((k, s, t, r) for s in (1, 2) for k, t, r in kinds)
    assert [job.seed for job in plan.jobs] == [1] * 4 + [2] * 4  # a whole set of tables early
    job = next(job for job in plan.jobs if job.key == FOUR and job.seed == 2)
    assert job.folder == tmp_path / f"{FOUR}-seed2"
    assert (job.cfg.train.seed, job.cfg.data.root) == (2, "data")
    assert job.cfg.embae.variants == ["baseline", "fix", "new", "cam"]
    own = next(job for job in plan.jobs if job.key == f"{DUKE}-pul")
    assert own.cfg.embae.variants == ["pul"]  # which trains nothing of EmbAE
    assert (own.cfg.model.name, own.cfg.embae.pul.base) == ("embae_resnet50", "softmax")
    assert plan.pul[3].published


def test_one_table_takes_only_what_it_needs(tmp_path):
    plan = paper_plan(tmp_path, tables=(3,), seeds=(5,))
    assert [(job.key, job.rows) for job in plan.jobs] == [
        (DUKE, ("baseline", "cam")), (f"{DUKE}-pul", ("pul-baseline", "pul")),
    ]
    more = paper_plan(tmp_path, tables=(1,), seeds=(5,), all_variants=True)
    assert more.jobs[0].cfg.embae.variants == ["baseline", "all", "fix", "new", "dataset", "cam"]


def test_synthetic_runs_pul_on_the_embedding_and_draws_its_data_in_out(tmp_path):
    plan = plan_jobs(load_preset("synthetic"), (3, 4), (1,), tmp_path)
    assert [job.rows for job in plan.jobs] == [("baseline", "cam", "pul")] * 2
    assert {job.cfg.data.root for job in plan.jobs} == {str(tmp_path / "reid-data")}
    assert not plan.pul[3].published and plan.pul[3].heads_only
    elsewhere = plan_jobs(load_preset("synthetic"), (3,), (1,), tmp_path, root="there")
    assert elsewhere.jobs[0].cfg.data.root == "there"


def test_tables_that_share_a_folder_must_agree(tmp_path):
    preset = write_preset(
        tmp_path,
        """
base: duke_to_market1501.yaml
tables: {1: {}, 3: {settings: {train.max_epoch: 3}}}
""",
    )
    with pytest.raises(ValueError, match="tables 1 and 3 are both duke.*differ in train.max_epoch"):
        plan_jobs(preset, (1, 3), (1,), tmp_path)
    assert len(plan_jobs(preset, (3,), (1,), tmp_path).jobs) == 1


def test_refused(tmp_path):
    preset = write_preset(tmp_path, "base: duke_to_market1501.yaml\ntables: {1: {}}")
    with pytest.raises(ValueError, match="has no table 2, 3; it has 1"):
        plan_jobs(preset, (1, 2, 3), (1,), tmp_path)
    with pytest.raises(ValueError, match="train.batch_size is 73"):
        plan_jobs(preset, (1,), (1,), tmp_path, options=["train.batch_size", "73"])
    with pytest.raises(ValueError, match="need loss.name embae"):
        plan_jobs(preset, (1,), (1,), tmp_path, options=["loss.name", "softmax"])
