"""Registers new parts in torchreid's tables.

Only datasets have a register function there, which refuses a second call; models, samplers, losses
and engines live in module-level tables. Registering here is idempotent, also after a reload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from embae_plugin.torchreid_bridge.library import (
    VERSION,
    datamanagers,
    datasets,
    engines,
    losses,
    models,
    samplers,
)
from embae_plugin.torchreid_bridge.manager_items import Item

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import Engine, ImageDataset


def model_table() -> dict[str, Callable[..., nn.Module]]:
    """torchreid's models by name."""
    return cast(dict[str, Callable[..., nn.Module]], vars(models)["__model_factory"])


def dataset_table() -> dict[str, type[ImageDataset]]:
    """torchreid's image datasets by name."""
    return cast("dict[str, type[ImageDataset]]", vars(datasets)["__image_datasets"])


def sampler_table() -> dict[str, Any]:
    """Samplers registered here, kept on the wrapper of torchreid's ``build_train_sampler``.

    torchreid picks a sampler in an if/else, which its data manager imported by name: both names
    are replaced, once.
    """
    build: Any = samplers.build_train_sampler
    if not hasattr(build, "registered"):

        def build_train_sampler(
            data_source: list[Item], train_sampler: str, batch_size: int = 32,
            num_instances: int = 4, num_cams: int = 1, num_datasets: int = 1, **more: Any,
        ) -> Any:
            sizes = {"batch_size": batch_size, "num_instances": num_instances,
                     "num_cams": num_cams, "num_datasets": num_datasets}
            if train_sampler in wrapped.registered:
                return wrapped.registered[train_sampler](data_source, **sizes)
            return build(data_source, train_sampler, **sizes, **more)

        wrapped: Any = build_train_sampler
        wrapped.registered = {}
        for owner in (samplers, datamanagers):
            vars(owner)["build_train_sampler"] = wrapped
    table: dict[str, Any] = samplers.build_train_sampler.registered
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
    _claim(model_table(), "model", name, factory)


def register_dataset(name: str, cls: type[ImageDataset]) -> None:
    """Make image dataset ``cls`` available as ``name`` to ``ImageDataManager``."""
    _claim(dataset_table(), "dataset", name, cls)


def register_sampler(name: str, cls: Any) -> None:
    """Make ``cls`` available as ``train_sampler`` and ``train_sampler_t``.

    It is built as ``cls(items, batch_size=, num_instances=, num_cams=, num_datasets=)``.
    """
    table = sampler_table()
    if name in samplers.AVAI_SAMPLERS and name not in table:
        raise ValueError(
            f"cannot register sampler '{name}': torchreid {VERSION} already has a sampler of that "
            "name; choose another name"
        )
    _claim(table, "sampler", name, cls)
    if name not in samplers.AVAI_SAMPLERS:
        samplers.AVAI_SAMPLERS.append(name)


def register_loss(name: str, cls: type[nn.Module]) -> None:
    """Make ``cls`` available as ``torchreid.losses.<name>``."""
    _claim(vars(losses), "loss", name, cls)


def register_engine(name: str, cls: type[Engine]) -> None:
    """Make ``cls`` available as ``torchreid.engine.<name>``."""
    _claim(vars(engines), "engine", name, cls)


def available_models() -> list[str]:
    """Names that ``build_model`` knows."""
    return sorted(model_table())


def available_datasets() -> list[str]:
    """Names of image datasets that ``ImageDataManager`` knows."""
    return sorted(dataset_table())
