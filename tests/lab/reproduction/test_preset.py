"""Presets: what ships works, and what cannot work is refused by file and key."""

from __future__ import annotations

import pytest

from embae_plugin.lab.reproduction.jobs import plan_jobs
from embae_plugin.lab.reproduction.preset import load_preset, seeds_of
from embae_plugin.settings.files import config_folder
from tests.lab.reproduction.fakes import write_preset

SHIPPED = sorted(path.stem for path in config_folder().glob("reproduce_*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_plan_all_tables(name, tmp_path):
    preset = load_preset(name)
    assert preset.about and preset.path.stem == name
    plan = plan_jobs(preset, [1, 2, 3, 4], preset.seeds, tmp_path)
    serving = [sum(n in job.tables for job in plan.jobs) for n in (1, 3)]
    assert serving == [len(preset.seeds), len(preset.seeds) * (2 if preset.pul else 1)]


def test_names_and_paths(tmp_path):
    path = config_folder() / "reproduce_paper.yaml"
    for name in ("paper", "reproduce_paper", "configs/reproduce_paper.yaml", str(path)):
        assert load_preset(name).name == "paper"
    with pytest.raises(FileNotFoundError, match="built-in presets paper, synthetic, viper"):
        load_preset("nowhere")


def test_settings_of_table_over_common_over_base(tmp_path):
    preset = write_preset(
        tmp_path,
        """
base: viper_cuhk01_to_market1501.yaml
seeds: [4, 9]
settings: {train.max_epoch: 3, embae: {transfer: {max_epoch: 2}}}
pul: {embae.pul.rounds: 1}
tables:
  1: {sources: [cuhk01], settings: {train: {max_epoch: 5}}}
  2: {target: synthetic_target}
""",
    )
    one, two = preset.config(1), preset.config(2)
    assert (one.train.max_epoch, two.train.max_epoch) == (5, 3)
    assert one.embae.transfer.max_epoch == two.embae.transfer.max_epoch == 2
    assert (one.data.sources, two.data.sources) == (["cuhk01"], ["viper", "cuhk01"])
    assert (one.data.targets, two.data.targets) == (["market1501"], ["synthetic_target"])
    assert preset.seeds == (4, 9) and one.data.combineall
    assert preset.config(1, ["train.max_epoch", "7"]).train.max_epoch == 7
    options = ["embae.pul.rounds", "2", "embae.pul.max_epoch", "6"]
    assert preset.config(1, options).embae.pul.rounds == 2
    pul = preset.config(1, options, pul=True).embae.pul
    assert (pul.rounds, pul.max_epoch) == (1, 6)


def test_base_beside_the_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("_BASE_: embae.yaml\ntrain: {max_epoch: 11}\n")
    preset = write_preset(tmp_path, "base: mine.yaml\ntables: {1: {sources: [viper]}}")
    assert preset.config(1).train.max_epoch == 11


@pytest.mark.parametrize(("text", "words"), [
    ("tabels: {1: {}}", "no key 'tabels'. Did you mean tables"),
    ("tables: {1: {source: [viper]}}", "tables: 1: there is no key 'source'. Did you mean sources"),
    ("tables: {1: {zzz: 1}}", "There are base, sources, target, settings"),
    ("tables: {5: {}}", "no table 5; there are 1, 2, 3 and 4"),
    ("tables: {True: {}}", "no table True"),
    ("seeds: 2", "tables must say what to run"),
    ("- a", "must hold keys"),
    ("", "must hold keys"),
    ("tables: {1: {sources: viper}}", "sources is 'viper'; it must be a list"),
    ("tables: {1: {target: 3}}", "target is 3; it must be text"),
    ("seeds: 0\ntables: {1: {}}", "seeds is 0; it must be how many"),
    ("settings: 3\ntables: {1: {}}", "settings is 3; it must be 'key: value' pairs"),
    ("a: [", "not a readable yaml file"),
])
def test_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match="reproduce_mine.yaml") as caught:
        write_preset(tmp_path, text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("settings: {train.epochs: 3}", "settings: there is no configuration key 'train.epochs'"),
    ("settings: {train.max_epoch: many}", "settings: Type mismatch"),
    ("pul: {embae.pull: 3}", "pul: there is no configuration key 'embae.pull'"),
])
def test_settings_that_the_configuration_lacks(tmp_path, text, words):
    preset = write_preset(tmp_path, f"{text}\ntables: {{1: {{}}}}")
    with pytest.raises(ValueError, match="reproduce_mine.yaml") as caught:
        preset.config(1, pul=True)
    assert words in str(caught.value)


def test_seeds():
    assert seeds_of(3, "seeds") == (1, 2, 3)
    assert seeds_of([7, 0], "seeds") == (7, 0)
    for wrong in (0, -1, True, [], [1, 1], [1, "2"], [-1], "3", 2.0, None):
        with pytest.raises(ValueError, match="seeds is"):
            seeds_of(wrong, "seeds")
