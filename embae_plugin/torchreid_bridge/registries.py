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

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import ImageDataset


def model_table() -> dict[str, Callable[..., nn.Module]]:
    """torchreid's models by name."""
    return cast(dict[str, Callable[..., nn.Module]], vars(models)["__model_factory"])


def dataset_table() -> dict[str, type[ImageDataset]]:
    """torchreid's image datasets by name."""
    return cast("dict[str, type[ImageDataset]]", vars(datasets)["__image_datasets"])


def sampler_table() -> dict[str, Callable[..., object]]:
    """Samplers registered here, kept on the wrapper of torchreid's ``build_train_sampler``.

    torchreid picks a sampler in an if/else, which its data manager imported by name: both names
    are replaced, once.
    """
    build = samplers.build_train_sampler
    if not hasattr(build, "registered"):
        table: dict[str, Callable[..., object]] = {}

        def build_train_sampler(
            data_source: object, train_sampler: str, *sizes: int, **more: int
        ) -> object:
            if train_sampler in table:
                return table[train_sampler](data_source, *sizes, **more)
            return build(data_source, train_sampler, *sizes, **more)

        vars(build_train_sampler)["registered"] = table
        for owner in (samplers, datamanagers):
            vars(owner)["build_train_sampler"] = build_train_sampler
    return cast(dict[str, Callable[..., object]], samplers.build_train_sampler.registered)


def register(kind: str, name: str, new: Any) -> None:
    """Makes something known to torchreid by name.

    Registering the same thing (the same object, or one of the same qualified name, as after a
    reload) again is fine.

    Args:
        kind: ``model``, a factory that ``build_model(name, num_classes, loss, pretrained,
            use_gpu)`` calls; ``dataset``, a class for ``ImageDataManager``; ``sampler``, a class
            for its ``train_sampler`` and ``train_sampler_t``, built as ``new(items, batch_size=,
            num_instances=, num_cams=, num_datasets=)``; ``loss`` and ``engine``, classes in
            ``torchreid.losses`` and ``torchreid.engine``.

    Raises:
        ValueError: the name belongs to something else.
    """
    tables: dict[str, dict[str, Any]] = {
        "model": model_table(), "dataset": dataset_table(), "sampler": sampler_table(),
        "loss": vars(losses), "engine": vars(engines),
    }
    table, stock = tables[kind], vars(samplers) if kind == "sampler" else {}
    old = table.get(name, stock.get(name, new))
    theirs, ours = ((one.__module__, one.__qualname__) for one in (old, new))
    if theirs != ours:
        raise ValueError(
            f"cannot register {kind} '{name}': torchreid {VERSION} already has "
            f"{'.'.join(theirs)} under that name; choose another name"
        )
    table[name] = new
    if kind == "sampler" and name not in samplers.AVAI_SAMPLERS:
        samplers.AVAI_SAMPLERS.append(name)


def available_models() -> list[str]:
    """Names that ``build_model`` knows."""
    return sorted(model_table())
