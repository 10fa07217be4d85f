"""The method of docs/add_a_method.md, taken from the page: in both commands, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embae_plugin.training.run_identity import load_checkpoint
from tests.crops_world import write_crops
from tests.networks import write_zoo_file
from tests.zoo_files import write_market1501

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add_a_method.md"
SIZES = ["data.height", "64", "data.width", "32", "use_gpu", "False"]


def source() -> str:
    return PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mirror.py").write_text(source(), encoding="utf-8")
    write_crops(folder / "crops", 4, 3, 2)
    write_zoo_file(folder / "osnet.pth", seed=3)
    write_market1501(folder / "root", train_ids=6, test_ids=4)
    return folder


def embae(world: Path, *words: str, wait: bool = True) -> subprocess.Popen[str]:
    code = "import sys; from embae_plugin.commands.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=world, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PAGE.parents[1])},
    )
    if wait:
        process.out, _ = process.communicate(timeout=300)  # type: ignore[attr-defined]
    return process


def train(world: Path, log: str, *more: str, wait: bool = True) -> subprocess.Popen[str]:
    return embae(
        world, "train", "--plugin", "mirror.py", "--config-file", "zoo_model", "--root", "root",
        "-t", "market1501", "model.load_weights", "osnet.pth", "data.save_dir", log, *SIZES,
        "embae.stages", "[]", "embae.variants", "['baseline', 'mirror']",
        "embae.mirror.batch_size", "8", "embae.save_interval", "0.01", *more, wait=wait,
    )


def test_the_page_holds_a_method_of_at_most_sixty_lines():
    assert len(source().strip().splitlines()) <= 60


def test_train_scores_it_and_a_killed_run_ends_with_the_same_bits(world):
    whole = train(world, "whole", "embae.mirror.max_epoch", "60")
    assert whole.returncode == 0, whole.out
    rows = json.loads((world / "whole" / "results.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["baseline", "mirror"]
    process = train(world, "cut", "embae.mirror.max_epoch", "60", wait=False)
    kept = world / "cut" / "mirror" / "last.pth"
    while process.poll() is None and not kept.is_file():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert kept.is_file() and not load_checkpoint(kept)["done"], "killed too late: a longer run"
    again = train(world, "cut", "embae.mirror.max_epoch", "60")
    assert again.returncode == 0 and "mirror: going on from" in (
        world / "cut" / "train.log").read_text()
    one, two = (load_checkpoint(world / log / "mirror" / "last.pth") for log in ("whole", "cut"))
    assert one["done"] and one["history"] == two["history"] and one["identity"] == two["identity"]
    assert all((one["model"][key] == value).all() for key, value in two["model"].items())
    assert one["identity"]["temperature"] == 0.1 and one["identity"]["lr"] == 1e-4
    scored = json.loads((world / "cut" / "results.json").read_text())["rows"]
    assert scored == rows
    other = train(world, "cut", "embae.mirror.max_epoch", "60", "embae.mirror.temperature", "0.2")
    assert other.returncode == 2 and "temperature: 0.1 then, 0.2 now" in other.out


def test_its_settings_are_checked_by_name(world):
    refused = train(world, "refused", "embae.mirror.lr", "0")
    assert refused.returncode == 2
    assert "embae.mirror.lr is 0.0; it must be greater than 0" in refused.out
    unknown = train(world, "refused", "embae.mirror.rate", "1")
    assert "there is no configuration key 'embae.mirror.rate'" in unknown.out
    assert not (world / "refused").exists()


def test_adapt_takes_it_and_both_helps_name_it(world):
    adapted = embae(
        world, "adapt", "--plugin", "mirror.py", "--images", "crops", "--checkpoint", "osnet.pth",
        "--out", "out", "--height", "64", "--width", "32", "embae.adapt.method", "mirror",
        "embae.mirror.batch_size", "8",
    )
    assert adapted.returncode == 0, adapted.out
    summary = json.loads((world / "out" / "summary.json").read_text())
    assert summary["method"]["method"] == "mirror"
    for verb in ("train", "adapt"):
        text = embae(world, verb, "--plugin", "mirror.py", "--help").out
        assert "mirror" in text and "crops and mirror images made equal" in text


def test_a_plugin_that_is_not_there_or_broken_is_named(world):
    absent = embae(world, "adapt", "--plugin", "absent.py", "--help")
    assert absent.returncode == 2 and "there is no file absent.py" in absent.out
    (world / "broken.py").write_text("1 / 0\n")
    broken = embae(world, "adapt", "--plugin", "broken.py", "--help")
    assert broken.returncode == 2
    assert "--plugin broken.py cannot be imported: division" in broken.out
