"""GPU, data, weights, and folders that are written to."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from embae_plugin.doctor import BROKEN, MISSING, OK, Finding, reason
from embae_plugin.doctor.packages import TORCH


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
    detail, fix = "this torch is built without CUDA", TORCH
    if torch.version.cuda is not None:
        detail, fix = f"torch (CUDA {torch.version.cuda}) finds no usable GPU", "nvidia-smi"
    detail = f"there is an NVIDIA driver, but {detail}"
    return Finding("GPU", BROKEN, detail, fix, required=False)


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
        get = f"embae data get {check.name} --root {shlex.quote(str(root))}"
        name = f"data {check.name}"
        if check.state in ("complete", "differs", "built in"):
            counts = ", ".join(f"{part} {n.images:,}" for part, n in check.found.items())
            yield Finding(name, OK, f"{check.state}{': ' if counts else ''}{counts}")
        elif check.state == "missing":
            yield Finding(name, MISSING, f"no folder {check.folder}", get, required=False)
        else:
            message = " ".join(check.messages[0].split()) if check.messages else check.folder
            yield Finding(name, BROKEN, f"{check.state}: {message}", get)


def check_checkpoint(path: str) -> Finding:
    """What model a checkpoint holds; raises what :func:`open_model` does."""
    from embae_plugin.models.door import open_model

    bundle = open_model(path)
    size = f"{bundle.input.height} x {bundle.input.width}"
    cameras = f", cameras: {', '.join(bundle.camera_names)}" if bundle.camera_names else ""
    detail = f"{bundle.model.spec()['trunk']}, input {size}, {bundle.model.feature_dim} numbers"
    return Finding(f"checkpoint {path}", OK, detail + cameras)


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
