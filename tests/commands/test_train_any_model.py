"""`embae train` from somebody else's network: its rows, its names, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from embae_plugin.models.bundle import load_checkpoint, save_checkpoint
from embae_plugin.models.door import open_model
from tests.networks import write_zoo_file
from tests.zoo_files import write_market1501

VARIANTS = "['baseline', 'new', 'norm', 'norm-unnamed', 'clusters-trunk']"
SETTINGS = [
    "data.height", "64", "data.width", "32", "embae.variants", VARIANTS,
    "embae.autoencoder.max_epoch", "1", "embae.transfer.max_epoch", "1",
    "embae.transfer.nuisance_epoch", "1", "embae.clusters.trunk_rounds", "1",
    "embae.clusters.min_samples", "2", "embae.clusters.k1", "3", "embae.clusters.eps", "0.6",
    "embae.clusters.batch_size", "8", "embae.clusters.num_instances", "2",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("w")
    write_market1501(root / "data", train_ids=6, test_ids=3, cameras=3, size=(32, 64))
    write_zoo_file(root / "osnet.pth", seed=2)
    return root


@pytest.fixture(scope="module")
def finished(world) -> Path:
    assert train(world, "model.load_weights", str(world / "osnet.pth")) == 0
    return world / "run"


def train(world: Path, *more: str) -> int:
    return main([
        "train", "--config-file", "zoo_model", "--root", str(world / "data"), "-t", "market1501",
        "data.save_dir", str(world / "run"), *SETTINGS, *more,
    ])


def test_each_row_starts_from_the_network_as_it_is(world, finished):
    rows = json.loads((finished / "results.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == [
        "baseline", "new", "norm", "norm-unnamed", "clusters-trunk"
    ]
    network = open_model(world / "osnet.pth").model
    for stage, cameras in (("transfer-new", 0), ("norm-trunk", 3), ("clusters-trunk", 3)):
        bundle = open_model(finished / stage)
        assert bundle.model.architecture == "osnet_x0_25" and bundle.model.cameras == cameras
        assert bundle.input.norm_mean == network.trunk.norm_mean, "of the network, not of a file"
    names = open_model(finished / "norm-trunk").camera_names
    assert names == ("market1501:0", "market1501:1", "market1501:2")


def test_a_checkpoint_is_scored_under_its_own_name(world, finished, capsys):
    for what, name in ((world / "osnet.pth", "baseline"), (finished / "norm-trunk", "norm")):
        if what.is_dir():
            what = what / "last.pth"
        assert train(world, "model.load_weights", str(what), "test.evaluate", "True") == 0
        rows = json.loads((finished / "results.json").read_text())["rows"]
        assert rows[-1]["variant"] == name and len(rows) == 5, "the others' are kept"


def test_an_unfinished_stage_is_not_scored(world, finished, capsys):
    payload = load_checkpoint(finished / "norm-trunk" / "last.pth")
    save_checkpoint(world / "half.pth", {**payload, "done": False})
    assert train(world, "model.load_weights", str(world / "half.pth"), "test.evaluate", "True") == 2
    assert "is of a stage that was not finished" in capsys.readouterr().err


def test_a_data_sets_cameras_are_told_apart_by_name(world, finished, caplog):
    """Another data set's camera 0 is not this one's."""
    flags = ["--checkpoint", str(finished / "norm-trunk"), "--root", str(world / "data")]
    assert main(["evaluate", *flags, "-t", "market1501"]) == 0
    assert "was not adapted to the camera" not in caplog.text
    regex = ["--camera-regex", r"_c(?P<camera>\d)"]
    assert main(["evaluate", *flags, "-t", "market1501", *regex]) == 0
    assert "was not adapted to the camera(s) 1, 2, 3" in caplog.text
