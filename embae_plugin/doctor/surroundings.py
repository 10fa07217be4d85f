"""GPU, data, weights, and folders that are written to."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from embae_plugin.doctor.findings import BROKEN, MISSING, OK, Finding, reason

_CUDA_WHEELS = "pip install --force-reinstall torch torchvision"


def check_gpu() -> Finding:
    """The GPUs that torch can use; none is no fault, one that it cannot use is."""
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda").add_(1).cpu()  # a build without kernels for it fails here
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        shown = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in names)
        return Finding("GPU", OK, shown, required=False)
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", MISSING, "none here; the processor is used", required=False)
    if torch.version.cuda is None:
        detail = "there is an NVIDIA driver, but this torch is built without CUDA"
        return Finding("GPU", BROKEN, detail, _CUDA_WHEELS, required=False)
    detail = f"there is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no usable GPU"
    return Finding("GPU", BROKEN, detail, "nvidia-smi", required=False)


def check_data(root: str | Path) -> Iterator[Finding]:
    """Every data set below ``root``: damaged ones are faults, absent ones are not."""
    checking = importlib.import_module("embae_plugin.data.checking")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        detail = f"{root} is not a folder"
        yield Finding("data", MISSING, detail, f"mkdir -p {shlex.quote(str(folder))}")
        return
    for check in checking.check_all(folder):
        get = f"embae data get {check.name} --root {shlex.quote(str(root))}"
        message = " ".join(check.messages[0].split()) if check.messages else check.folder
        name = f"data {check.name}"
        if check.state in ("complete", "differs", "built in"):
            counts = ", ".join(f"{part} {n.images:,}" for part, n in check.found.items())
            yield Finding(name, OK, f"{check.state}{': ' if counts else ''}{counts}")
        elif check.state == "missing":
            yield Finding(name, MISSING, f"no folder {check.folder}", get, required=False)
        else:
            yield Finding(name, BROKEN, f"{check.state}: {message}", get)


def check_checkpoint(path: str) -> Finding:
    """Whether an EmbAE checkpoint loads, and what it is."""
    bundles = importlib.import_module("embae_plugin.models.door")
    name = f"checkpoint {path}"
    try:
        bundle = bundles.open_model(path)
    except FileNotFoundError as error:
        return Finding(name, MISSING, reason(error))
    size = f"{bundle.input.height} x {bundle.input.width}"
    cameras = f", cameras: {', '.join(bundle.camera_names)}" if bundle.camera_names else ""
    detail = f"{bundle.model.spec()['trunk']}, input {size}, {bundle.model.feature_dim} numbers"
    return Finding(name, OK, detail + cameras)


def check_weights(path: str, trunk: str = "") -> Finding:
    """Whether a weight file of a trunk can be read, and, with a trunk named, fits it."""
    name = f"weights {path}"
    weights = importlib.import_module("embae_plugin.models.weight_files")
    try:
        state = weights.read_state(path)
    except FileNotFoundError as error:
        return Finding(name, MISSING, reason(error))
    detail = f"{len(state)} tensors"
    if trunk:
        built = importlib.import_module("embae_plugin.models.trunks").build_trunk(trunk, path)
        detail += f", fit the trunk {built.name}"
    return Finding(name, OK, detail)


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
    quoted = shlex.quote(str(folder))
    if not place.is_dir():
        return Finding(name, BROKEN, f"{place} is no folder", f"mv {place} {place}.old", required)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"embae")
    except OSError as error:
        mend = f"sudo mkdir -p {quoted} && sudo chown -R $USER {quoted}"
        return Finding(name, BROKEN, f"{folder} cannot be written: {reason(error)}", mend, required)
    free = shutil.disk_usage(place).free / 2**30
    will = "" if place == folder else ", will be made"
    return Finding(name, OK, f"{folder}{will}, {free:.1f} GiB free", required=required)
