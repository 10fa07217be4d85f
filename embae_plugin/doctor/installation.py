"""Python, the packages, GPU, data, weights, and folders that are written to."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from embae_plugin.doctor import BROKEN, MISSING, OK, Finding, guarded, reason

MODULES = {  # what to import, where it is not called as on PyPI
    "pyyaml": "yaml", "scikit-learn": "sklearn", "opencv-python-headless": "cv2", "pillow": "PIL",
    "faiss-cpu": "faiss", "umap-learn": "umap",
}
TORCHREID = "pip install torchreid==0.2.5"
TORCH = "pip install --force-reinstall torch torchvision"


def declared() -> list[tuple[Requirement, str]]:
    """What setup.py declares: each package, and the extra that it is for ("" if it is required).

    Raises:
        PackageNotFoundError: this package was not installed.
    """
    about = importlib.metadata.metadata("embae_plugin")
    needs = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    found: dict[str, tuple[Requirement, str]] = {}
    for extra in ("", *(about.get_all("Provides-Extra") or ())):
        for need in needs if extra not in ("all", "dev") else ():
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                found.setdefault(need.name, (need, extra))
    return list(found.values())


def check_package(need: Requirement, extra: str = "") -> Finding:
    """Whether a package can be imported, in a release that will do; it may be for an extra."""
    name, install = need.name, f"pip install {need.name}"
    finding = partial(Finding, name, required=not extra)
    module_name = MODULES.get(name.lower(), name.lower().replace("-", "_"))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            return finding(MISSING, "not installed" + (extra and f"; for {extra}"), install)
        detail = f"it needs the module '{error.name}', which is not installed"
        return finding(BROKEN, detail, f"pip install {error.name}")
    except Exception as error:
        detail = f"cannot be imported: {reason(error)}"
        return finding(BROKEN, detail, f"{install} --force-reinstall")
    try:
        version = str(getattr(module, "__version__", "") or importlib.metadata.version(name))
        if need.specifier.contains(Version(version).base_version):  # 2.6.0a0+nv25.01 is a 2.6
            return finding(OK, version)
    except importlib.metadata.PackageNotFoundError:
        return finding(OK, "version unknown")
    except InvalidVersion:  # of somebody's own build
        return finding(OK, version)
    fix = f"pip install --upgrade '{name}{need.specifier}'" + " torchvision" * (name == "torch")
    return finding(BROKEN, f"{version}; {need.specifier} is needed", fix)


def check_torch(need: Requirement, extra: str = "") -> Finding:
    """Whether torch loads, is new enough and computes."""
    found = check_package(need, extra)
    if found.state != OK:
        return found
    import torch

    torch.ones(3, 3).mm(torch.ones(3, 3))
    cuda = f"CUDA {torch.version.cuda or 'not built in'}"
    return replace(found, detail=f"{found.detail}, {torch.get_num_threads()} threads, {cuda}")


def check_torchvision(need: Requirement, extra: str = "") -> Finding:
    """Whether torchvision loads and computes, as only the release made for this torch does."""
    found = check_package(need, extra)
    if found.state == OK:
        import torch
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return found


def check_torchreid(need: Requirement, extra: str = "") -> Finding:
    """Which torchreid is there, and whether it knows this package's models."""
    try:
        bridge = importlib.import_module("embae_plugin.torchreid_bridge")
    except ImportError as error:
        if str(error).startswith("torchreid is not installed"):
            return Finding("torchreid", MISSING, reason(error), TORCHREID)
        fix = f"{TORCHREID} --force-reinstall"
        if isinstance(error.__cause__, ModuleNotFoundError):
            fix = f"pip install {error.__cause__.name}"
        return Finding("torchreid", BROKEN, reason(error), fix)
    from embae_plugin import registration

    registration.register()
    if absent := sorted(set(registration.MODELS) - set(bridge.model_table())):
        return Finding("torchreid", BROKEN, f"it does not know {', '.join(absent)}",
                       "pip install --force-reinstall embae_plugin")
    layout = {"pypi": "PyPI's layout", "github": "GitHub's layout"}[bridge.LAYOUT]
    return Finding("torchreid", OK, f"{bridge.VERSION}, {layout}, at {bridge.LOCATION}, with "
                   f"{len(registration.MODELS)} models of this package")


def check_packages() -> Iterator[Finding]:
    """Every check of this module, torch before what needs it, torchreid after what it needs."""
    yield Finding("Python", OK, f"{platform.python_version()} at {sys.executable}")
    try:
        needs = declared()
    except importlib.metadata.PackageNotFoundError:
        yield Finding("embae_plugin", MISSING, "not installed: what else it needs is not known",
                      "pip install -e . (in its folder)", required=False)
        needs = [(Requirement(name), "") for name in ("torch", "torchvision", "torchreid")]
    checks = {"torch": check_torch, "torchvision": check_torchvision, "torchreid": check_torchreid}
    order = {"torch": 0, "torchvision": 1, "torchreid": 3}
    needs.sort(key=lambda pair: (pair[1], order.get(pair[0].name, 2)))
    torch = Finding("torch", OK)
    for need, extra in needs:
        name = need.name
        if torch.state != OK and name in ("torchvision", "timm", "torchreid"):
            yield Finding(name, BROKEN, "not checked, as torch does not load", torch.fix)
            continue
        check = partial(checks.get(name, check_package), need, extra)
        found = guarded(name, check, TORCHREID if name == "torchreid" else TORCH)
        torch = found if name == "torch" else torch
        yield found


def check_gpu() -> Finding:
    """The GPUs that torch can use; none is no fault, one that it cannot use is."""
    import torch

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda").add_(1).cpu()  # a build without kernels for it fails here
        all_of_them = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        shown = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in all_of_them)
        return Finding("GPU", OK, shown, required=False)
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", MISSING, "none here; the processor is used", required=False)
    why, fix = f"torch (CUDA {torch.version.cuda}) finds no usable GPU", "nvidia-smi"
    if torch.version.cuda is None:
        why, fix = "this torch is built without CUDA", TORCH
    return Finding("GPU", BROKEN, f"there is an NVIDIA driver, but {why}", fix, required=False)


def check_data(root: str | Path) -> Iterator[Finding]:
    """Every data set below ``root``: damaged ones are faults, absent ones are not."""
    from embae_plugin.data.checking import check_all

    folder = Path(root).expanduser()
    try:
        checks = check_all(folder)
    except FileNotFoundError as error:
        yield Finding("data", MISSING, reason(error), f"mkdir -p {shlex.quote(str(folder))}")
        return
    for check in checks:
        state = {"complete": OK, "differs": OK, "built in": OK, "missing": MISSING}.get(
            check.state, BROKEN)
        said = ", ".join(f"{part} {n.images:,}" for part, n in check.found.items())
        if state == BROKEN:
            said = " ".join([*check.messages, check.folder][0].split())
        detail = ": ".join(filter(None, (check.state, said)))
        detail = f"no folder {check.folder}" if state == MISSING else detail
        get = f"embae data get {check.name} --root {shlex.quote(str(root))}"
        yield Finding(f"data {check.name}", state, detail, get, required=state != MISSING)


def check_checkpoint(path: str) -> Finding:
    """What model a checkpoint holds; raises what :func:`open_model` does."""
    from embae_plugin.models.door import open_model

    bundle = open_model(path)
    cameras = f", cameras: {', '.join(bundle.camera_names)}" if bundle.camera_names else ""
    return Finding(f"checkpoint {path}", OK, f"{bundle.model.spec()['trunk']}, input "
                   f"{bundle.input.height} x {bundle.input.width}, {bundle.model.feature_dim} "
                   f"numbers{cameras}")


def check_weights(path: str, trunk: str = "") -> Finding:
    """What a weight file holds, and whether it fits ``trunk``, if named; raises if it does not."""
    from embae_plugin.models.trunks import build_trunk
    from embae_plugin.models.weight_files import read_state

    detail = f"{len(read_state(path))} tensors"
    if trunk:
        detail += f", fit the trunk {build_trunk(trunk, path).name}"
    return Finding(f"weights {path}", OK, detail)


def cache_folders() -> dict[str, Path]:
    """Where torch's and timm's downloads go, by their own variables."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return {
        "cache of torch": Path(os.environ.get("TORCH_HOME", home / "torch")),
        "cache of timm": Path(os.environ.get("HF_HOME", home / "huggingface")),
    }


def check_writable(name: str, folder: Path, required: bool = True) -> Finding:
    """Whether a file can be written into ``folder``, or into where it would be made."""
    folder = folder.expanduser()
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        return Finding(name, BROKEN, f"{place} is no folder", f"mv {place} {place}.old", required)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"embae")
    except OSError as error:
        quoted = shlex.quote(str(folder))
        fix = f"sudo mkdir -p {quoted} && sudo chown -R $USER {quoted}"
        return Finding(name, BROKEN, f"{folder} cannot be written: {reason(error)}", fix, required)
    will, free = "" if place == folder else ", will be made", shutil.disk_usage(place).free
    return Finding(name, OK, f"{folder}{will}, {free / 2**30:.1f} GiB free", required=required)
