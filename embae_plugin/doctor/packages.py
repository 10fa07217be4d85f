"""Python and the packages: what loads, in which version, and what to install."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from types import ModuleType

from embae_plugin.doctor.findings import BROKEN, MISSING, OK, Finding, guarded, reason

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 6)

REQUIRED = {  # name on PyPI -> what to import
    "numpy": "numpy",
    "timm": "timm",
    "yacs": "yacs",
    "PyYAML": "yaml",
    "gdown": "gdown",
    "tabulate": "tabulate",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "psutil": "psutil",
    "Jinja2": "jinja2",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "scikit-learn": "sklearn",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "six": "six",
    "h5py": "h5py",
    "scipy": "scipy",
    "opencv-python-headless": "cv2",
    "tensorboard": "tensorboard",
    "imageio": "imageio",
    "Pillow": "PIL",
}
OPTIONAL = {  # name on PyPI -> what to import, what it is for
    "faiss-cpu": ("faiss", "search in large galleries"),
    "pyarrow": ("pyarrow", "Parquet files"),
    "umap-learn": ("umap", "UMAP maps in a report"),
}


def check_python() -> Finding:
    """The interpreter's version."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        detail = f"{found}; {wanted} or later is needed"
        return Finding("Python", BROKEN, detail, f"python{wanted} -m venv .venv")
    return Finding("Python", OK, found)


def version_of(distribution: str, module: ModuleType) -> str:
    """The installed version, from the package's metadata or from the module itself."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "version unknown"))


def check_package(
    distribution: str, module_name: str, purpose: str = "", required: bool = True
) -> Finding:
    """Whether a package can be imported."""
    install = f"pip install {distribution}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            detail = f"not installed; for {purpose}" if purpose else "not installed"
            return Finding(distribution, MISSING, detail, install, required)
        detail = f"it needs the module '{error.name}', which is not installed"
        return Finding(distribution, BROKEN, detail, f"pip install {error.name}", required)
    except Exception as error:
        detail = f"cannot be imported: {reason(error)}"
        return Finding(distribution, BROKEN, detail, f"{install} --force-reinstall", required)
    return Finding(distribution, OK, version_of(distribution, module), required=required)


def check_torch() -> Finding:
    """Whether torch loads, is new enough and computes."""
    found = check_package("torch", "torch")
    if found.state != OK:
        return found
    torch = importlib.import_module("torch")
    version = numbers(torch.__version__)
    if version < OLDEST_TORCH:
        detail = f"{torch.__version__}; {'.'.join(map(str, OLDEST_TORCH))} or later is needed"
        return Finding("torch", BROKEN, detail, "pip install --upgrade torch torchvision")
    total = float((torch.ones(3, 3) @ torch.ones(3, 3)).sum())
    if total != 27:
        detail = f"{torch.__version__} computes wrongly: 27 came out as {total}"
        return Finding("torch", BROKEN, detail, "pip install --force-reinstall torch torchvision")
    threads = torch.get_num_threads()
    return Finding("torch", OK, f"{torch.__version__}, {threads} threads, CUDA "
                                f"{torch.version.cuda or 'not built in'}")  # fmt: skip


def check_torchvision() -> Finding:
    """Whether torchvision loads and is the release made for this torch.

    Release 0.(n + 15) of torchvision is made for release 2.n of torch.
    """
    torch = importlib.import_module("torch")
    major, minor = numbers(torch.__version__)
    partner = f"0.{minor + 15}" if major == 2 else ""
    release = ".".join(torch.__version__.split("+")[0].split(".")[:3])
    mend = f"pip install torch=={release} torchvision" + (f"=={partner}.*" if partner else "")
    found = check_package("torchvision", "torchvision")
    if found.state != OK:
        return Finding("torchvision", found.state, found.detail, mend)
    torchvision = importlib.import_module("torchvision")
    version = str(torchvision.__version__)
    if partner and numbers(version) != numbers(partner):
        detail = f"{version} is not made for torch {torch.__version__}, {partner} is"
        return Finding("torchvision", BROKEN, detail, mend)
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return Finding("torchvision", OK, version)


def numbers(version: str) -> tuple[int, int]:
    """Major and minor of a version; (0, 0) where it has none."""
    parts = version.split("+")[0].split(".")
    digits = [int("".join(c for c in part if c.isdigit()) or 0) for part in parts[:2]]
    return (digits[0], digits[1]) if len(digits) == 2 else (0, 0)


def check_torchreid() -> Finding:
    """Which torchreid is there, by way of the one module that knows both layouts."""
    mend = "pip install torchreid==0.2.5"
    try:
        bridge = importlib.import_module("embae_plugin.torchreid_bridge")
    except ImportError as error:
        cause = error.__cause__
        absent = str(error).startswith("torchreid is not installed")
        if not absent and isinstance(cause, ModuleNotFoundError) and cause.name:
            mend = f"pip install {cause.name}"
        elif not absent:
            mend += " --force-reinstall"
        return Finding("torchreid", MISSING if absent else BROKEN, reason(error), mend)
    layout = {"pypi": "PyPI's layout", "github": "GitHub's layout"}[bridge.LAYOUT]
    return Finding("torchreid", OK, f"{bridge.VERSION}, {layout}, at {bridge.LOCATION}")


def check_registration() -> Finding:
    """Whether this package's own parts are in torchreid's tables."""
    registration = importlib.import_module("embae_plugin.registration")
    registration.register()
    bridge = importlib.import_module("embae_plugin.torchreid_bridge")
    absent = sorted(set(registration.MODELS) - set(bridge.model_table()))
    if absent:
        return Finding("registration", BROKEN, f"torchreid does not know {', '.join(absent)}",
                       "pip install --force-reinstall embae_plugin")  # fmt: skip
    count = len(registration.MODELS)
    return Finding("registration", OK, f"{count} models and their engines are known to torchreid")


def check_packages() -> Iterator[Finding]:
    """Every check of this module, in the order in which they depend on each other."""
    yield check_python()
    torch = guarded("torch", check_torch, "pip install --force-reinstall torch torchvision")
    yield torch
    if torch.state == OK:
        mend = "pip install --force-reinstall torch torchvision"
        yield guarded("torchvision", check_torchvision, mend)
    else:
        yield Finding("torchvision", BROKEN, "not checked, as torch does not load", torch.mend)
    for distribution, module_name in REQUIRED.items():
        if distribution == "timm" and torch.state != OK:
            yield Finding("timm", BROKEN, "not checked, as torch does not load", torch.mend)
        else:
            yield check_package(distribution, module_name)
    if torch.state == OK:
        torchreid = guarded("torchreid", check_torchreid, "pip install torchreid==0.2.5")
        yield torchreid
        if torchreid.state == OK:
            yield guarded("registration", check_registration)
    else:
        yield Finding("torchreid", BROKEN, "not checked, as torch does not load", torch.mend)
    for distribution, (module_name, purpose) in OPTIONAL.items():
        yield check_package(distribution, module_name, purpose, required=False)
