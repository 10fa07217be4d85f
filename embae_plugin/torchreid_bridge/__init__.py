"""All that knows torchreid: the library's own names, what is registered in it, its data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from embae_plugin.torchreid_bridge import library
from embae_plugin.torchreid_bridge.acquisition import build_datamanager as build_datamanager
from embae_plugin.torchreid_bridge.acquisition import dataset_split as dataset_split
from embae_plugin.torchreid_bridge.acquisition import init_image_dataset as init_image_dataset
from embae_plugin.torchreid_bridge.library import LAYOUT as LAYOUT
from embae_plugin.torchreid_bridge.library import LOCATION as LOCATION
from embae_plugin.torchreid_bridge.library import VERSION as VERSION
from embae_plugin.torchreid_bridge.library import quiet as quiet
from embae_plugin.torchreid_bridge.manager_items import UNLABELLED as UNLABELLED
from embae_plugin.torchreid_bridge.manager_items import target_train_items as target_train_items
from embae_plugin.torchreid_bridge.manager_items import test_items as test_items
from embae_plugin.torchreid_bridge.manager_items import train_items as train_items
from embae_plugin.torchreid_bridge.manager_items import transforms_of as transforms_of
from embae_plugin.torchreid_bridge.network_parts import feature_of as feature_of
from embae_plugin.torchreid_bridge.network_parts import network_parts as network_parts
from embae_plugin.torchreid_bridge.network_parts import own_models as own_models
from embae_plugin.torchreid_bridge.network_parts import pooled_trunk as pooled_trunk
from embae_plugin.torchreid_bridge.registries import available_models as available_models
from embae_plugin.torchreid_bridge.registries import dataset_table as dataset_table
from embae_plugin.torchreid_bridge.registries import model_table as model_table
from embae_plugin.torchreid_bridge.registries import register as register

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import Engine as Engine
    from embae_plugin.torchreid_bridge.types import ImageDataManager as ImageDataManager
    from embae_plugin.torchreid_bridge.types import ImageDataset as ImageDataset
else:
    Engine, ImageDataset = library.engines.Engine, library.module("data").ImageDataset
    ImageDataManager = library.datamanagers.ImageDataManager

ImageSoftmaxEngine = library.engines.ImageSoftmaxEngine
ImageTripletEngine = library.engines.ImageTripletEngine
build_model: Callable[..., nn.Module] = library.models.build_model
build_optimizer = library.optim.build_optimizer
build_lr_scheduler = library.optim.build_lr_scheduler
evaluate_rank = library.metrics.evaluate_rank
compute_distance_matrix = library.metrics.compute_distance_matrix
FeatureExtractor = library.utils.FeatureExtractor
set_random_seed: Callable[[int], None] = library.utils.set_random_seed
