"""Packaging; the build system and the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "embae_plugin" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# torchreid's package on PyPI declares no dependency at all: what its import needs stands here.
TORCHREID_FORGETS = [
    "six", "h5py", "scipy", "opencv-python-headless", "tensorboard", "imageio", "Pillow>=9.1",
]
# export, report and cluster are required by now; their names stay for those who ask for them.
OPTIONAL = {
    "search": ["faiss-cpu"],
    "export": ["onnx>=1.15", "onnxruntime>=1.16"],
    "report": ["scikit-learn>=1.3"],
    "umap": ["umap-learn"],
    "parquet": ["pyarrow"],
    "cluster": ["scikit-learn>=1.3"],
}
TEST = [
    "pytest>=7", "pytest-xdist>=3", "hypothesis>=6", "pytorch-metric-learning>=2",
    "mypy", "ruff", "build",
]

setup(
    name="embae_plugin",
    version=VERSION,
    description="Unsupervised transfer of person re-identification models to new cameras, "
    "a torchreid extension",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)],
    # configs/ lies at the top of the repository and inside the installed package.
    packages=[*find_packages(include=["embae_plugin", "embae_plugin.*"]), "embae_plugin.configs"],
    package_dir={"embae_plugin": "embae_plugin", "embae_plugin.configs": "configs"},
    package_data={
        "embae_plugin": ["py.typed"],
        "embae_plugin.commands": ["templates/*"],
        "embae_plugin.models": ["*.csv"],
        "embae_plugin.torchreid_bridge": ["*.pyi", "*.yaml"],
        "embae_plugin.configs": ["*.yaml"],
        "embae_plugin.report_page": ["templates/*"],
    },
    install_requires=[
        "torchreid>=0.2.5",
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.9",
        "numpy>=1.24.2",
        "yacs>=0.1.8",
        "PyYAML>=5",
        "gdown>=4.7",
        "tabulate>=0.9",
        "matplotlib>=3.7",
        "tqdm>=4.64",
        "psutil>=5.9",
        "packaging>=22",
        "Jinja2>=3",
        "safetensors>=0.4",
        "huggingface_hub>=0.25",
        "scikit-learn>=1.3",
        "onnx>=1.15",
        "onnxruntime>=1.16",
        *TORCHREID_FORGETS,
    ],
    extras_require={
        **OPTIONAL,
        "all": sorted({name for names in OPTIONAL.values() for name in names}),
        "dev": sorted({*TEST, *(name for names in OPTIONAL.values() for name in names)}),
    },
    entry_points={"console_scripts": ["embae = embae_plugin.commands.main:main"]},
)
