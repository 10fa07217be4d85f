"""The only file that knows torchreid: finds it, re-exports it, and registers new parts in it.

Two torchreids are in use: version 0.2.5 of PyPI, with everything below ``torchreid.reid``, and
1.4.0 of GitHub (KaiyangZhou/deep-person-reid), with everything below ``torchreid``. Only datasets
have a register function there, which refuses a second call; models, samplers, losses and engines
live in module-level tables. Registering here is idempotent, also after a reload.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from embae_plugin.data.acquisition import open_dataset, replaced
from embae_plugin.data.manager_items import UNLABELLED as UNLABELLED
from embae_plugin.data.manager_items import ImageTransforms as ImageTransforms
from embae_plugin.data.manager_items import Item, items_of
from embae_plugin.data.manager_items import target_train_items as target_train_items
from embae_plugin.data.manager_items import test_items as test_items
from embae_plugin.data.manager_items import train_items as train_items
from embae_plugin.data.manager_items import transforms_of as transforms_of
from embae_plugin.pooled_trunk import NetworkParts, network_parts, pooled_trunk
from embae_plugin.quiet_output import printed_to_log

logger = logging.getLogger(__name__)

_INSTALL = (
    "install 0.2.5 from PyPI (pip install torchreid==0.2.5) or 1.4.0 from GitHub "
    "(pip install git+https://github.com/KaiyangZhou/deep-person-reid)"
)
_SUPPORTED = {"pypi": "0.2.5", "github": "1.4.0"}


def _find_torchreid() -> tuple[ModuleType, str]:
    """Import torchreid and tell its layout, "pypi" or "github".

    Raises:
        ImportError: torchreid or one of its undeclared dependencies is missing, or the version
            is not one of the two supported ones.
    """
    try:
        with warnings.catch_warnings():
            # Its evaluator is not used here, so neither is its Cython version.
            warnings.filterwarnings("ignore", message="Cython evaluation")
            package = importlib.import_module("torchreid")
    except ModuleNotFoundError as error:
        if error.name == "torchreid":
            raise ImportError(f"torchreid is not installed: {_INSTALL}") from error
        raise ImportError(
            f"torchreid is installed, but the module '{error.name}' that it needs (and does not "
            f"declare as a dependency) is not: pip install {error.name}"
        ) from error
    layout = "pypi" if hasattr(package, "reid") else "github"
    version = getattr(package, "__version__", "unknown")
    if version != _SUPPORTED[layout]:
        where = list(getattr(package, "__path__", [getattr(package, "__file__", "?")]))
        raise ImportError(
            f"torchreid {version} at {where[0]} is not supported by embae_plugin: {_INSTALL}"
        )
    return package, layout


_torchreid, LAYOUT = _find_torchreid()
VERSION: str = _torchreid.__version__
LOCATION: str = str(Path(str(_torchreid.__file__)).parent)
_BASE = "torchreid.reid" if LAYOUT == "pypi" else "torchreid"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{_BASE}.{name}")


_models, _losses, _engines = _module("models"), _module("losses"), _module("engine")
_datasets, _samplers = _module("data.datasets"), _module("data.sampler")
_datamanagers = _module("data.datamanager")
_metrics, _optim, _utils = _module("metrics"), _module("optim"), _module("utils")

if TYPE_CHECKING:
    from embae_plugin.torchreid_types import Engine as Engine
    from embae_plugin.torchreid_types import ImageDataManager as ImageDataManager
    from embae_plugin.torchreid_types import ImageDataset as ImageDataset
else:
    Engine, ImageDataset = _engines.Engine, _module("data").ImageDataset
    ImageDataManager = _datamanagers.ImageDataManager

ImageSoftmaxEngine: Any = _engines.ImageSoftmaxEngine
ImageTripletEngine: Any = _engines.ImageTripletEngine
CrossEntropyLoss: Any = _losses.CrossEntropyLoss
TripletLoss: Any = _losses.TripletLoss
build_model: Callable[..., nn.Module] = _models.build_model
build_optimizer: Any = _optim.build_optimizer
build_lr_scheduler: Any = _optim.build_lr_scheduler
evaluate_rank: Any = _metrics.evaluate_rank
compute_distance_matrix: Any = _metrics.compute_distance_matrix
FeatureExtractor: Any = _utils.FeatureExtractor
AverageMeter: Any = _utils.AverageMeter
MetricMeter: Any = _utils.MetricMeter
set_random_seed: Callable[[int], None] = _utils.set_random_seed
compute_model_complexity: Any = _utils.compute_model_complexity
load_pretrained_weights: Any = _utils.load_pretrained_weights
open_all_layers: Any = _utils.open_all_layers
open_specified_layers: Any = _utils.open_specified_layers
re_ranking: Any = _utils.re_ranking
visualize_ranked_results: Any = _utils.visualize_ranked_results


# --- torchreid's prints ---------------------------------------------------------------------


def quiet() -> AbstractContextManager[None]:
    """Send what a block prints to this module's logger, line by line, at DEBUG."""
    return printed_to_log(logger)


# --- registration ---------------------------------------------------------------------------


def _model_table() -> dict[str, Callable[..., nn.Module]]:
    # Named through vars(): inside a class body the leading underscores would be mangled.
    table: dict[str, Callable[..., nn.Module]] = vars(_models)["__model_factory"]
    return table


def _dataset_table() -> dict[str, type[ImageDataset]]:
    table: dict[str, type[ImageDataset]] = vars(_datasets)["__image_datasets"]
    return table


def _sampler_table() -> dict[str, Any]:
    """Samplers registered here, kept on the wrapper of torchreid's ``build_train_sampler``.

    torchreid picks a sampler in an if/else, which its data manager imported by name: both names
    are replaced, once.
    """
    build = _samplers.build_train_sampler
    if hasattr(build, "registered"):
        table: dict[str, Any] = build.registered
        return table
    table = {}

    def build_train_sampler(
        data_source: list[Item],
        train_sampler: str,
        batch_size: int = 32,
        num_instances: int = 4,
        num_cams: int = 1,
        num_datasets: int = 1,
        **kwargs: Any,
    ) -> Any:
        sizes = {
            "batch_size": batch_size,
            "num_instances": num_instances,
            "num_cams": num_cams,
            "num_datasets": num_datasets,
        }
        if train_sampler in table:
            return table[train_sampler](data_source, **sizes)
        return build(data_source, train_sampler, **sizes, **kwargs)

    build_train_sampler.registered = table  # type: ignore[attr-defined]
    _samplers.build_train_sampler = build_train_sampler  # type: ignore[attr-defined]
    _datamanagers.build_train_sampler = build_train_sampler  # type: ignore[attr-defined]
    return table


def _claim(table: dict[str, Any], kind: str, name: str, new: Any) -> None:
    """Enter ``new`` under ``name``, unless something else is there already."""
    old = table.get(name, new)
    identity = [(o.__module__, o.__qualname__) for o in (old, new)]
    if old is not new and identity[0] != identity[1]:
        raise ValueError(
            f"cannot register {kind} '{name}': torchreid {VERSION} already has "
            f"{'.'.join(identity[0])} under that name; choose another name"
        )
    table[name] = new


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Let ``build_model(name, num_classes, loss, pretrained, use_gpu)`` call ``factory``.

    Like every ``register_*``: registering the same thing (the same object, or one of the same
    qualified name, as after a reload) again is fine.

    Raises:
        ValueError: the name belongs to something else.
    """
    _claim(_model_table(), "model", name, factory)


def register_dataset(name: str, cls: type[ImageDataset]) -> None:
    """Make image dataset ``cls`` available as ``name`` to ``ImageDataManager``."""
    _claim(_dataset_table(), "dataset", name, cls)


def register_sampler(name: str, cls: Any) -> None:
    """Make ``cls`` available as ``train_sampler`` and ``train_sampler_t``.

    It is built as ``cls(items, batch_size=, num_instances=, num_cams=, num_datasets=)``.
    """
    table = _sampler_table()
    if name in _samplers.AVAI_SAMPLERS and name not in table:
        raise ValueError(
            f"cannot register sampler '{name}': torchreid {VERSION} already has a sampler of that "
            "name; choose another name"
        )
    _claim(table, "sampler", name, cls)
    if name not in _samplers.AVAI_SAMPLERS:
        _samplers.AVAI_SAMPLERS.append(name)


def register_loss(name: str, cls: type[nn.Module]) -> None:
    """Make ``cls`` available as ``torchreid.losses.<name>``."""
    _claim(vars(_losses), "loss", name, cls)


def register_engine(name: str, cls: type[Engine]) -> None:
    """Make ``cls`` available as ``torchreid.engine.<name>``."""
    _claim(vars(_engines), "engine", name, cls)


def available_models() -> list[str]:
    """Names that ``build_model`` knows."""
    return sorted(_model_table())


def available_datasets() -> list[str]:
    """Names of image datasets that ``ImageDataManager`` knows."""
    return sorted(_dataset_table())


def available_samplers() -> list[str]:
    """Names of training samplers that ``ImageDataManager`` knows."""
    return sorted(_samplers.AVAI_SAMPLERS)


# --- datasets -------------------------------------------------------------------------------


def init_image_dataset(name: str, **kwargs: Any) -> ImageDataset:
    """torchreid's dataset ``name``, read from below ``root=`` and never downloaded.

    Random splits that torchreid makes on first use are the same on every machine, and the global
    random state is left as it was. ``kwargs`` go to the dataset's class.

    Raises:
        FileNotFoundError: the data is not there; says where it was looked for and how to get it.
        ValueError: unknown name, unreadable layout, or cached splits of a folder that was moved.
    """
    if name not in _dataset_table():
        raise ValueError(f"unknown dataset '{name}'; available: {', '.join(available_datasets())}")
    with quiet():
        cls, base = _dataset_table()[name], _module("data").Dataset
        dataset: ImageDataset = open_dataset(name, cls, base, kwargs)
    return dataset


def dataset_split(name: str, root: str | Path, mode: str, **kwargs: Any) -> list[Item]:
    """The items (path, pid, camid, dsetid) of one split, sorted by path.

    Args:
        name: a registered dataset.
        root: folder in which the dataset's own folder lies.
        mode: "train", "query" or "gallery".
        kwargs: as for :func:`init_image_dataset`, whose errors apply.
    """
    if mode not in ("train", "query", "gallery"):
        raise ValueError(f"mode must be train, query or gallery, not '{mode}'")
    options = {"verbose": False, **kwargs, "root": str(root), "mode": mode}
    return items_of(getattr(init_image_dataset(name, **options), mode))


def build_datamanager(**kwargs: Any) -> ImageDataManager:
    """torchreid's ``ImageDataManager``, its datasets read by :func:`init_image_dataset`."""
    with replaced(_datamanagers, "init_image_dataset", init_image_dataset), quiet():
        return ImageDataManager(**kwargs)


# --- trunks ---------------------------------------------------------------------------------


def build_torchreid_trunk(name: str, pretrained: bool) -> nn.Module:
    """A model of torchreid's zoo whose output is its globally average-pooled features.

    It maps (B, 3, H, W) to (B, ``feature_dim``) in training and evaluation alike; state-dict keys
    stay torchreid's, less ``classifier.*`` and ``fc.*``. See :func:`pooled_trunk` for errors.
    """
    _check_own(name)
    with quiet():
        return pooled_trunk(name, build_model, pretrained)


def torchreid_network(name: str) -> NetworkParts:
    """A model of torchreid's zoo in two parts, with random weights; see :func:`network_parts`."""
    _check_own(name)
    with quiet():
        return network_parts(name, build_model)


def own_models() -> list[str]:
    """Names of the models that torchreid itself brings."""
    return sorted(n for n, f in _model_table().items() if f.__module__.startswith("torchreid."))


def _check_own(name: str) -> None:
    own = own_models()
    if name not in own:
        raise ValueError(f"unknown torchreid model '{name}'; available: {', '.join(own)}")
