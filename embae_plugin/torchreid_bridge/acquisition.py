"""Opens torchreid's datasets from data that is there, and says what to do when it is not.

Nothing is ever downloaded on the user's behalf: several of torchreid's links are dead, one leads to
data its authors have withdrawn, and a mistyped root would start a transfer of gigabytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embae_plugin.torchreid_bridge.known_datasets import how_to_get


def missing_data_error(name: str, root: str | Path, looked_for: str) -> FileNotFoundError:
    """The error for a dataset whose folder or files are not there."""
    return FileNotFoundError(
        f"dataset '{name}': looked for {looked_for}, which is not there, and nothing is downloaded "
        f"automatically. {how_to_get(name, root)}"
    )


def unreadable_data_error(
    name: str, root: str | Path, folder: str, error: Exception
) -> FileNotFoundError | ValueError:
    """torchreid's complaint about a dataset's files, as an error that says what to do."""
    text = str(error)
    if text.endswith("is not found"):
        return missing_data_error(name, root, text.split('"')[1])
    return ValueError(
        f"dataset '{name}' in {folder} cannot be read ({text or type(error).__name__}): its files "
        f"are missing or named otherwise than expected. {how_to_get(name, root)}"
    )


def check_split_files(name: str, dataset: Any) -> None:
    """Refuse a dataset whose cached split file points to images that do not exist.

    torchreid's small datasets (VIPeR, CUHK01, CUHK03, GRID, iLIDS, PRID) write their random splits
    once, with absolute paths, beside the images. A folder that was moved afterwards still carries
    the old paths. One image of each subset is looked at: a move breaks all of them alike.

    Raises:
        ValueError: naming the stale file, which has to be deleted.
    """
    first = [items[0][0] for items in (dataset.train, dataset.query, dataset.gallery) if items]
    gone = [path for path in first if not Path(path).exists()]
    split_files = [
        value
        for value in vars(dataset).values()
        if isinstance(value, str) and value.endswith(".json") and Path(value).is_file()
    ]
    if gone and split_files:
        raise ValueError(
            f"dataset '{name}': the cached splits name images that do not exist (e.g. {gone[0]}); "
            f"the folder was probably moved. Delete {', '.join(split_files)} and load it again"
        )


@contextmanager
def fixed_global_random_state(seed: int = 0) -> Iterator[None]:
    """Run a block under a fixed global random state, and put the caller's state back afterwards.

    torchreid draws a dataset's random splits from the global state of ``random`` and ``numpy``;
    under this block the same folder always gets the same splits.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give ``owner`` another attribute ``name`` for the length of a block."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def open_dataset(name: str, cls: Any, base: Any, kwargs: dict[str, Any]) -> Any:
    """``cls(**kwargs)``, from data that is there, under a fixed random state.

    Args:
        name: of the dataset, for messages.
        cls: a dataset class of torchreid, or derived from torchreid's base class.
        base: torchreid's base class, whose ``download_dataset`` is kept from downloading.
        kwargs: of the class; ``root`` is the folder that holds the dataset's own folder.

    Raises:
        FileNotFoundError, ValueError: as :func:`missing_data_error`,
            :func:`unreadable_data_error` and :func:`check_split_files` say.
    """
    root = kwargs.get("root", "")
    stock = cls.__module__.startswith("torchreid.")
    folder = Path(root).expanduser().absolute() / str(getattr(cls, "dataset_dir", ""))
    # University1652 downloads in its constructor, past download_dataset.
    if stock and not folder.is_dir():
        raise missing_data_error(name, root, str(folder))

    def refuse_download(_: Any, dataset_dir: str, dataset_url: str | None) -> None:
        if not Path(dataset_dir).exists():
            raise missing_data_error(name, root, dataset_dir)

    with replaced(base, "download_dataset", refuse_download), fixed_global_random_state():
        try:
            dataset = cls(**kwargs)
        except (RuntimeError, AssertionError, IndexError, AttributeError) as error:
            if not stock:
                raise
            raise unreadable_data_error(name, root, str(folder), error) from error
    check_split_files(name, dataset)
    return dataset
