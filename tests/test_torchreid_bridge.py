"""Registration in the torchreid that is installed, and in a GitHub checkout where one is named."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchreid

from embae_plugin import torchreid_bridge as bridge
from embae_plugin.registration import register

REPOSITORY = Path(__file__).resolve().parents[1]

# Run in a fresh interpreter: every registered thing works by name, twice, and after reloads.
USE_EVERYTHING = """
import importlib, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    import embae_plugin
import torchreid
from embae_plugin import registration, torchreid_bridge as bridge
def use():
    model = torchreid.models.build_model(
        "embae_mobilenetv1", num_classes=5, loss="triplet", pretrained=False, use_gpu=False)
    assert type(model).__name__ == "EmbAE"
    assert torchreid.losses.BatchHardTripletLoss().margin is None
    assert torchreid.losses.ReconstructionLoss
    for name in ("Embedding", "Autoencoder", "Transfer"):
        engine = getattr(torchreid.engine, f"Image{name}Engine")
        assert issubclass(engine, torchreid.engine.Engine)
    assert {"synthetic_source_a", "synthetic_source_b", "synthetic_target", "ward"} <= set(
        bridge.dataset_table())
    assert bridge.library.samplers.AVAI_SAMPLERS.count("CameraBalancedSampler") == 1
use()
embae_plugin.register()
for module in (bridge, registration, embae_plugin):
    importlib.reload(module)
embae_plugin.register()
build = bridge.library.samplers.build_train_sampler
assert build is bridge.library.datamanagers.build_train_sampler
stock = [cell.cell_contents for cell in build.__closure__ if callable(cell.cell_contents)]
assert not hasattr(stock[0], "registered"), "wrapped twice"
use()
print(bridge.LAYOUT, bridge.VERSION, bridge.LOCATION)
"""


def run_fresh(code: str, *paths: Path) -> str:
    """What ``code`` prints in a new interpreter that finds packages in ``paths`` first."""
    search = os.pathsep.join(map(str, (REPOSITORY, *paths)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY.parent,
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_torchreid():
    installed = Path(torchreid.__file__).parents[1]
    layout, version, location = run_fresh(USE_EVERYTHING, installed).split()
    assert (layout, version) in [("pypi", "0.2.5"), ("github", "1.4.0")]
    assert Path(location) == Path(torchreid.__file__).parent


def test_github_checkout():
    checkout = os.environ.get("EMBAE_TORCHREID_GITHUB", "")
    if not checkout:
        pytest.skip("EMBAE_TORCHREID_GITHUB names no checkout of deep-person-reid")
    layout, version, location = run_fresh(USE_EVERYTHING, Path(checkout)).split()
    assert (layout, version) == ("github", "1.4.0")
    assert Path(location) == Path(checkout).resolve() / "torchreid"


def test_real_objects_are_re_exported():
    assert bridge.Engine is torchreid.engine.Engine
    assert bridge.ImageDataManager is torchreid.data.ImageDataManager
    assert bridge.build_model is torchreid.models.build_model
    assert bridge.evaluate_rank is torchreid.metrics.evaluate_rank


def test_registering_twice_changes_nothing():
    tables = bridge.model_table, bridge.dataset_table, bridge.library.sampler_table
    before = [dict(table()) for table in tables]
    register()
    assert before == [table() for table in tables]


class Newcomer(torch.nn.Module):
    """Something that has never been registered."""


@pytest.mark.parametrize(
    ("kind", "taken"),
    [("model", "resnet50"), ("dataset", "market1501"), ("sampler", "RandomIdentitySampler"),
     ("loss", "TripletLoss"), ("engine", "ImageTripletEngine")],
)
def test_a_name_of_torchreid_is_not_taken_over(kind, taken):
    with pytest.raises(ValueError, match=f"'{taken}': torchreid .* already has .*another name"):
        bridge.register(kind, taken, Newcomer)
    assert torchreid.losses.TripletLoss is not Newcomer
    assert Newcomer not in bridge.model_table().values()


def test_a_new_version_of_the_same_thing_replaces_it(monkeypatch):
    monkeypatch.setattr(bridge.library, "losses", type(sys)("losses"))
    bridge.register("loss", "Newcomer", Newcomer)
    reloaded = type("Newcomer", (Newcomer,), {"__module__": Newcomer.__module__})
    bridge.register("loss", "Newcomer", reloaded)
    assert bridge.library.losses.Newcomer is reloaded
    stranger = type("Stranger", (Newcomer,), {"__module__": Newcomer.__module__})
    with pytest.raises(ValueError, match="cannot register loss 'Newcomer'"):
        bridge.register("loss", "Newcomer", stranger)


def test_stock_samplers_still_work():
    items = [("", pid, 0, 0) for pid in range(4) for _ in range(4)]
    for name in ("RandomIdentitySampler", "RandomSampler", "SequentialSampler"):
        build_sampler = bridge.library.samplers.build_train_sampler
        sampler = build_sampler(items, name, batch_size=4, num_instances=2)
        assert type(sampler).__name__ == name
    with pytest.raises(AssertionError, match="must be one of"):
        bridge.library.samplers.build_train_sampler(items, "NoSampler")


def test_quiet_logs_what_is_printed(caplog, capsys):
    caplog.set_level(logging.DEBUG, logger=bridge.__name__)
    with pytest.raises(KeyError), bridge.quiet():
        print("one\n\n  two", end="")
        print(" words")
        print("cut off", end="")
        raise KeyError
    print("heard")
    assert [record.getMessage() for record in caplog.records] == ["one", "  two words", "cut off"]
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert capsys.readouterr().out == "heard\n"
