"""All that knows torchreid: the library's own names, what is registered in it, its data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from embae_plugin.torchreid_bridge import library
from embae_plugin.torchreid_bridge.acquisition import open_dataset, replaced
from embae_plugin.torchreid_bridge.library import LAYOUT as LAYOUT
from embae_plugin.torchreid_bridge.library import LOCATION as LOCATION
from embae_plugin.torchreid_bridge.library import VERSION as VERSION
from embae_plugin.torchreid_bridge.library import quiet as quiet
from embae_plugin.torchreid_bridge.manager_items import UNLABELLED as UNLABELLED
from embae_plugin.torchreid_bridge.manager_items import ImageTransforms as ImageTransforms
from embae_plugin.torchreid_bridge.manager_items import Item, items_of
from embae_plugin.torchreid_bridge.manager_items import target_train_items as target_train_items
from embae_plugin.torchreid_bridge.manager_items import test_items as test_items
from embae_plugin.torchreid_bridge.manager_items import train_items as train_items
from embae_plugin.torchreid_bridge.manager_items import transforms_of as transforms_of
from embae_plugin.torchreid_bridge.network_parts import NetworkParts, network_parts, pooled_trunk
from embae_plugin.torchreid_bridge.registries import available_datasets as available_datasets
from embae_plugin.torchreid_bridge.registries import available_models as available_models
from embae_plugin.torchreid_bridge.registries import available_samplers as available_samplers
from embae_plugin.torchreid_bridge.registries import dataset_table as dataset_table
from embae_plugin.torchreid_bridge.registries import model_table as model_table
from embae_plugin.torchreid_bridge.registries import register_dataset as register_dataset
from embae_plugin.torchreid_bridge.registries import register_engine as register_engine
from embae_plugin.torchreid_bridge.registries import register_loss as register_loss
from embae_plugin.torchreid_bridge.registries import register_model as register_model
from embae_plugin.torchreid_bridge.registries import register_sampler as register_sampler
from embae_plugin.torchreid_bridge.registries import sampler_table as sampler_table

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import Engine as Engine
    from embae_plugin.torchreid_bridge.types import ImageDataManager as ImageDataManager
    from embae_plugin.torchreid_bridge.types import ImageDataset as ImageDataset
else:
    Engine, ImageDataset = library.engines.Engine, library.module("data").ImageDataset
    ImageDataManager = library.datamanagers.ImageDataManager

ImageSoftmaxEngine: Any = library.engines.ImageSoftmaxEngine
ImageTripletEngine: Any = library.engines.ImageTripletEngine
CrossEntropyLoss: Any = library.losses.CrossEntropyLoss
TripletLoss: Any = library.losses.TripletLoss
build_model: Callable[..., nn.Module] = library.models.build_model
build_optimizer: Any = library.optim.build_optimizer
build_lr_scheduler: Any = library.optim.build_lr_scheduler
evaluate_rank: Any = library.metrics.evaluate_rank
compute_distance_matrix: Any = library.metrics.compute_distance_matrix
FeatureExtractor: Any = library.utils.FeatureExtractor
AverageMeter: Any = library.utils.AverageMeter
MetricMeter: Any = library.utils.MetricMeter
set_random_seed: Callable[[int], None] = library.utils.set_random_seed
compute_model_complexity: Any = library.utils.compute_model_complexity
load_pretrained_weights: Any = library.utils.load_pretrained_weights
open_all_layers: Any = library.utils.open_all_layers
open_specified_layers: Any = library.utils.open_specified_layers
re_ranking: Any = library.utils.re_ranking
visualize_ranked_results: Any = library.utils.visualize_ranked_results



# --- datasets -------------------------------------------------------------------------------


def init_image_dataset(name: str, **kwargs: Any) -> ImageDataset:
    """torchreid's dataset ``name``, read from below ``root=`` and never downloaded.

    Random splits that torchreid makes on first use are the same on every machine, and the global
    random state is left as it was. ``kwargs`` go to the dataset's class.

    Raises:
        FileNotFoundError: the data is not there; says where it was looked for and how to get it.
        ValueError: unknown name, unreadable layout, or cached splits of a folder that was moved.
    """
    if name not in dataset_table():
        raise ValueError(f"unknown dataset '{name}'; available: {', '.join(available_datasets())}")
    with quiet():
        cls, base = dataset_table()[name], library.module("data").Dataset
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
    with replaced(library.datamanagers, "init_image_dataset", init_image_dataset), quiet():
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
    return sorted(n for n, f in model_table().items() if f.__module__.startswith("torchreid."))


def _check_own(name: str) -> None:
    own = own_models()
    if name not in own:
        raise ValueError(f"unknown torchreid model '{name}'; available: {', '.join(own)}")
