"""Opens torchreid's datasets from data that is there, and says what to do when it is not.

Nothing is ever downloaded on the user's behalf: several of torchreid's links are dead, one leads to
data its authors have withdrawn, and a mistyped root would start a transfer of gigabytes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embae_plugin.torchreid_bridge.known_datasets import how_to_get
from embae_plugin.torchreid_bridge.library import datamanagers, dataset_table, module, quiet
from embae_plugin.torchreid_bridge.manager_items import Item, items_of

if TYPE_CHECKING:
    from embae_plugin.torchreid_bridge.types import ImageDataManager, ImageDataset


def missing_data_error(name: str, root: str | Path, looked_for: str) -> FileNotFoundError:
    """The error for a dataset whose folder or files are not there."""
    return FileNotFoundError(
        f"dataset '{name}': looked for {looked_for}, which is not there, and nothing is downloaded "
        f"automatically. {how_to_get(name, root)}"
    )


def check_split_files(name: str, dataset: Any, folder: Path) -> None:
    """Raises ValueError for cached splits that name images elsewhere, or ones that do not exist.

    torchreid's small datasets (VIPeR, CUHK01, CUHK03, GRID, iLIDS, PRID) write their random splits
    once, with absolute paths, beside the images. A folder that was moved or copied afterwards
    still carries the old paths, and a file from elsewhere could name any image of this machine.
    """
    texts = [value for value in vars(dataset).values() if isinstance(value, str)]
    split_files = [text for text in texts if text.endswith(".json") and Path(text).is_file()]
    if not split_files:
        return
    paths = [str(item[0]) for part in (dataset.train, dataset.query, dataset.gallery)
             for item in part]
    within, real = f"{folder}{os.sep}", f"{os.path.realpath(folder)}{os.sep}"
    for path in paths:
        plain = os.path.normpath(path)
        inside = plain.startswith(within) or os.path.realpath(path).startswith(real)
        if not inside or not os.path.exists(path):
            what = "do not exist" if inside else f"do not lie in {folder}"
            raise ValueError(f"dataset '{name}': the cached splits name images that {what} (e.g. "
                             f"{path}); the folder was probably moved or copied. Delete "
                             f"{', '.join(split_files)} and load it again")


@contextmanager
def fixed_global_random_state() -> Iterator[None]:
    """Within it, the same folder always gets the same splits, which torchreid draws globally."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives ``owner`` another attribute ``name`` for the length of a block."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


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
    cls = table[name]
    stock = cls.__module__.startswith("torchreid.")
    folder = Path(root).expanduser().absolute() / str(getattr(cls, "dataset_dir", ""))
    # University1652 downloads in its constructor, past download_dataset.
    if stock and not folder.is_dir():
        raise missing_data_error(name, root, str(folder))

    def refuse_download(_: Any, dataset_dir: str, dataset_url: str | None) -> None:
        if not Path(dataset_dir).exists():
            raise missing_data_error(name, root, dataset_dir)

    base = module("data").Dataset
    with replaced(base, "download_dataset", refuse_download), fixed_global_random_state(), quiet():
        try:
            dataset = cls(**kwargs)
        except (RuntimeError, AssertionError, LookupError, AttributeError, TypeError,
                json.JSONDecodeError) as error:  # some of a damaged splits.json
            if not stock:
                raise
            text = str(error)
            if text.endswith("is not found"):
                raise missing_data_error(name, root, text.split('"')[1]) from error
            raise ValueError(f"dataset '{name}' in {folder} cannot be read "
                             f"({text or type(error).__name__}): its files are missing or named "
                             f"otherwise than expected. {how_to_get(name, root)}") from error
    check_split_files(name, dataset, folder)
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
    with replaced(datamanagers, "init_image_dataset", init_image_dataset), quiet():
        return cast("ImageDataManager", datamanagers.ImageDataManager(**kwargs))
