"""Which torchreid is there: told apart on fakes, in one fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import embae_plugin

UTILITIES = """
FeatureExtractor AverageMeter MetricMeter set_random_seed re_ranking compute_model_complexity
load_pretrained_weights open_all_layers open_specified_layers visualize_ranked_results
"""
MODULES = {
    "models": "__model_factory = {}\ndef build_model(): ...",
    "losses": "class CrossEntropyLoss: ...\nclass TripletLoss: ...",
    "engine": "class Engine: ...\nclass ImageSoftmaxEngine: ...\nclass ImageTripletEngine: ...",
    "metrics": "def evaluate_rank(): ...\ndef compute_distance_matrix(): ...",
    "optim": "def build_optimizer(): ...\ndef build_lr_scheduler(): ...",
    "utils": "\n".join(f"def {name}(): ..." for name in UTILITIES.split()),
    "data/datasets": "__image_datasets = {}",
    "data/sampler": "AVAI_SAMPLERS = []\ndef build_train_sampler(): ...",
    "data/datamanager": "class ImageDataManager: ...",
    "data": "class ImageDataset: ...\nclass Dataset: ...",
}
ALL = "data, engine, losses, metrics, models, optim, utils"

# The bridge alone: the package's own __init__ would import everything else.
PROBE = """
import importlib, json, sys, types
package = types.ModuleType("embae_plugin")
package.__path__ = [sys.argv[1]]
sys.modules["embae_plugin"] = package
answers = {}
for folder in sys.argv[2:]:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchreid" or "bridge" in n]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        bridge = importlib.import_module("embae_plugin.torchreid_bridge")
        answers[folder] = [bridge.LAYOUT, bridge.VERSION, bridge.LOCATION, bridge.Engine.__module__]
    except ImportError as error:
        answers[folder] = str(error)
    sys.path.remove(folder)
print(json.dumps(answers))
"""


def fake_torchreid(root: Path, layout: str, version: str) -> None:
    """A package of the given layout with every name the bridge looks for, and nothing in it."""
    package = root / "torchreid"
    base = package / "reid" if layout == "pypi" else package
    for module, text in MODULES.items():
        file = base / f"{module}.py" if "/" in module else base / module / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    imports = f"from torchreid.reid import {ALL}" if layout == "pypi" else ""
    (package / "__init__.py").write_text(f"{imports}\n__version__ = '{version}'\n")
    if layout == "pypi":
        (base / "__init__.py").write_text("__version__ = '1.4.0'\n")


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, object]:
    """What the bridge says to each fake torchreid."""
    root = tmp_path_factory.mktemp("fakes")
    fake_torchreid(root / "pypi", "pypi", "0.2.5")
    fake_torchreid(root / "github", "github", "1.4.0")
    fake_torchreid(root / "old", "github", "1.2.5")
    fake_torchreid(root / "future", "pypi", "0.3.0")
    broken = {"folder_only": "", "absent": "raise ModuleNotFoundError(name='torchreid')",
              "incomplete": "import h5py_that_is_not_there"}
    for name, text in broken.items():
        (root / name / "torchreid").mkdir(parents=True)
        (root / name / "torchreid" / "__init__.py").write_text(text)
    cases = sorted(path for path in root.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *embae_plugin.__path__, *map(str, cases)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {Path(folder).name: answer for folder, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    ("layout", "version", "module"),
    [("pypi", "0.2.5", "torchreid.reid.engine"), ("github", "1.4.0", "torchreid.engine")],
)
def test_both_layouts_are_told_apart(answers, layout, version, module):
    *known, location, engine_module = answers[layout]
    assert (known, engine_module) == ([layout, version], module)
    assert Path(location).parent.name == layout


@pytest.mark.parametrize(
    ("case", "version"), [("old", "1.2.5"), ("future", "0.3.0"), ("folder_only", "unknown")]
)
def test_other_versions_are_refused(answers, case, version):
    message = answers[case]
    assert message.startswith(f"torchreid {version} at ")
    assert f"{case}/torchreid is not supported" in message
    assert "pip install torchreid==0.2.5" in message and "deep-person-reid" in message


def test_no_torchreid(answers):
    assert answers["absent"].startswith("torchreid is not installed: install 0.2.5 from PyPI")


def test_missing_dependency_of_torchreid_is_named(answers):
    assert "the module 'h5py_that_is_not_there'" in answers["incomplete"]
    assert answers["incomplete"].endswith("pip install h5py_that_is_not_there")
