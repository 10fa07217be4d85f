"""Whatever a user of ``embae train`` can mend ends with code 2 and one clear message."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from embae_plugin.commands.main import main
from embae_plugin.models.trunks import build_trunk
from tests.commands.tiny_run import train


def message(capsys) -> str:
    """The line that a user is left with."""
    lines = capsys.readouterr().err.strip().splitlines()
    said = [number for number, line in enumerate(lines) if line.startswith("embae: ")]
    assert len(said) == 1, lines
    assert said[0] == len(lines) - 1 or "image file(s)" in lines[said[0]]
    assert not any("Traceback" in line for line in lines)
    return "\n".join(lines[said[0] :])


MISTAKES = [
    ({"embae__varaints": "['cam']"}, r"no configuration key 'embae.varaints'. Did you mean"),
    ({"embae__variants": "['cams']"}, r"embae.variants: 'cams' is not one of"),
    ({"embae__trunk": "mobilenet_v9"}, r"mobilenet_v9"),
    ({"embae__trunk_weights": "nowhere.pth"}, r"nowhere.pth"),
    ({"model__load_weights": "nowhere.pth"}, r"checkpoint nowhere.pth does not exist"),
    ({"train__batch_size": "5"}, r"K = 2) does not divide; 4 or 6 would do"),
    ({"train__batch_size": "40"}, r"identities"),
    ({"sources": "viper market1501"}, r"market1501 is both a source and the target"),
    ({"sources": "cuhk01"}, r"dataset 'cuhk01': looked for"),
    ({"sources": "cuhk9"}, r"unknown dataset 'cuhk9'; available"),
    ({"loss__name": "contrastive"}, r"loss.name must be embae, softmax or triplet"),
    ({"test__evaluate": "True"}, r"holds no finished stage"),
    ({"embae__stages": "['autoencoder', 'transfer']"}, r"holds no finished stage 1"),
    ({"embae__embedding__step": "graph"}, r"graph cannot be used: the images are not on a GPU"),
]


@pytest.mark.parametrize(("changes", "text"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_told_in_one_line(root, tmp_path, capsys, monkeypatch, changes, text):
    monkeypatch.chdir(tmp_path)
    assert train(root, tmp_path / "run", **changes) == 2
    assert text in message(capsys)


def test_a_missing_config_file_is_told(capsys):
    assert main(["train", "--config-file", "gone.yaml"]) == 2
    assert "configuration file gone.yaml does not exist; built in are" in message(capsys)


def test_a_list_without_a_name_is_told(capsys):
    assert main(["train", "-s", "viper", "-t", "data.combineall", "False"]) == 2
    assert "--targets is followed by data.combineall: name at least one" in message(capsys)


def test_a_mistaken_key_behind_a_list_is_told_as_a_key(capsys):
    assert main(["train", "-s", "viper", "-t", "market1501", "embea.variants", "['cam']"]) == 2
    assert "no configuration key 'embea.variants'" in message(capsys)


def test_weights_of_another_network_are_told(root, tmp_path, capsys):
    torch.save(build_trunk("mobilenetv1_x0_5").net.state_dict(), tmp_path / "wide.pth")
    weights = str(tmp_path / "wide.pth")
    assert train(root, tmp_path / "run", embae__trunk_weights=weights) == 2
    text = message(capsys)
    assert "wide.pth" in text and "mobilenetv1_x0_25" in text


def test_another_setting_in_the_same_folder_is_told(root, copied, capsys):
    assert train(root, copied, train__lr="0.01") == 2
    assert "  lr: 0.0003 then, 0.01 now" in capsys.readouterr().err


@pytest.fixture
def own_root(root, tmp_path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "own", ignore=shutil.ignore_patterns("*.json")))


def test_corrupt_images_are_all_told(own_root, tmp_path, capsys):
    pictures = sorted((own_root / "viper").rglob("*.bmp"))[:2]
    pictures[0].write_bytes(pictures[0].read_bytes()[:80])
    pictures[1].write_bytes(b"")
    assert train(own_root, tmp_path / "run") == 2
    text = message(capsys)
    assert "2 image file(s) cannot be read" in text
    assert all(str(picture) in text for picture in pictures)
    # the run's log has the traceback that the terminal is spared
    assert "CorruptImageError" in (tmp_path / "run" / "train.log").read_text(encoding="utf-8")


def test_a_full_disk_is_told(root, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    assert train(root, tmp_path / "run", embae__stages="['embedding']") == 2
    assert "cannot write the checkpoint" in message(capsys)
