"""Opens torchreid's datasets from data that is there, and says what to do when it is not.

Nothing is ever downloaded on the user's behalf: several of torchreid's links are dead, one leads to
data its authors have withdrawn, and a mistyped root would start a transfer of gigabytes.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embae_plugin.torchreid_bridge.known_datasets import how_to_get
from embae_plugin.torchreid_bridge.library import datamanagers, module, quiet
from embae_plugin.torchreid_bridge.manager_items import Item, items_of
from embae_plugin.torchreid_bridge.registries import dataset_table

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import ImageDataManager, ImageDataset


def missing_data_error(name: str, root: str | Path, looked_for: str) -> FileNotFoundError:
    """The error for a dataset whose folder or files are not there."""
    return FileNotFoundError(
        f"dataset '{name}': looked for {looked_for}, which is not there, and nothing is downloaded "
        f"automatically. {how_to_get(name, root)}"
    )


def init_image_dataset(name: str, **kwargs: Any) -> ImageDataset:
    """torchreid's dataset ``name``, read from below ``root=`` and never downloaded.

    Random splits that torchreid makes on first use are the same on every machine, and the global
    random state is left as it was. ``kwargs`` go to the dataset's class.

    Raises:
        FileNotFoundError: the data is not there; says where it was looked for and how to get it.
        ValueError: unknown name, unreadable layout, or cached splits of a folder that was moved.
    """
    table, root = dataset_table(), kwargs.get("root", "")
    if name not in table:
        raise ValueError(f"unknown dataset '{name}'; available: {', '.join(sorted(table))}")
    cls, base = table[name], module("data").Dataset
    stock = cls.__module__.startswith("torchreid.")
    folder = Path(root).expanduser().absolute() / str(getattr(cls, "dataset_dir", ""))
    # University1652 downloads in its constructor, past download_dataset.
    if stock and not folder.is_dir():
        raise missing_data_error(name, root, str(folder))

    def refuse_download(_: object, dataset_dir: str, dataset_url: str | None) -> None:
        if not Path(dataset_dir).exists():
            raise missing_data_error(name, root, dataset_dir)

    with ExitStack() as restored:
        restored.callback(random.setstate, random.getstate())
        restored.callback(np.random.set_state, np.random.get_state())
        restored.callback(setattr, base, "download_dataset", base.download_dataset)
        restored.enter_context(quiet())
        random.seed(0)
        np.random.seed(0)
        base.download_dataset = refuse_download
        try:
            dataset = cls(**kwargs)
        except (RuntimeError, AssertionError, IndexError, AttributeError) as error:
            if not stock:
                raise
            text = str(error)
            if text.endswith("is not found"):
                raise missing_data_error(name, root, text.split('"')[1]) from error
            raise ValueError(
                f"dataset '{name}' in {folder} cannot be read ({text or type(error).__name__}): "
                "its files are missing or named otherwise than expected. "
                f"{how_to_get(name, root)}"
            ) from error
    _check_split_files(name, dataset)
    return dataset


def _check_split_files(name: str, dataset: ImageDataset) -> None:
    """Refuses cached splits that point to images which do not exist.

    torchreid's small datasets (VIPeR, CUHK01, CUHK03, GRID, iLIDS, PRID) write their random splits
    once, with absolute paths, beside the images. A folder that was moved afterwards still carries
    the old paths. One image of each subset is looked at: a move breaks all of them alike.
    """
    first = [items[0][0] for items in (dataset.train, dataset.query, dataset.gallery) if items]
    gone = [path for path in first if not Path(path).exists()]
    texts = [value for value in vars(dataset).values() if isinstance(value, str)]
    split_files = [text for text in texts if text.endswith(".json") and Path(text).is_file()]
    if gone and split_files:
        raise ValueError(
            f"dataset '{name}': the cached splits name images that do not exist (e.g. {gone[0]}); "
            f"the folder was probably moved. Delete {', '.join(split_files)} and load it again"
        )


def dataset_split(name: str, root: str | Path, mode: str, **kwargs: Any) -> list[Item]:
    """The items (path, pid, camid, dsetid) of one split, sorted by path.

    ``mode`` is "train", "query" or "gallery"; all else is as for :func:`init_image_dataset`.
    """
    options = {"verbose": False, **kwargs, "root": str(root), "mode": mode}
    return items_of(getattr(init_image_dataset(name, **options), mode))


def build_datamanager(**kwargs: Any) -> ImageDataManager:
    """torchreid's ``ImageDataManager``, its datasets read by :func:`init_image_dataset`."""
    names, stock = vars(datamanagers), datamanagers.init_image_dataset
    names["init_image_dataset"] = init_image_dataset
    try:
        with quiet():
            return cast("ImageDataManager", datamanagers.ImageDataManager(**kwargs))
    finally:
        names["init_image_dataset"] = stock
