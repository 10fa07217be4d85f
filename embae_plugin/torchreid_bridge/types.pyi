"""The parts of torchreid's classes this package relies on, for type checkers only.

torchreid ships no type information. ``torchreid_bridge`` replaces each of these by the real class
at run time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

Names = str | Sequence[str] | None

Item = tuple[str, int, int, int]
"""(path, pid, camid, dsetid)."""

class ImageDataset(Dataset[dict[str, object]]):
    """torchreid's base class of image datasets."""

    _junk_pids: list[int]
    _train_only: bool
    train: list[Item]
    query: list[Item]
    gallery: list[Item]
    data: list[Item]
    mode: str
    num_train_pids: int
    num_train_cams: int
    num_datasets: int
    combineall: bool

    def __init__(
        self,
        train: Sequence[tuple[str, int, int] | Item],
        query: Sequence[tuple[str, int, int] | Item],
        gallery: Sequence[tuple[str, int, int] | Item],
        *,
        transform: Callable[[Image], torch.Tensor] | None = None,
        k_tfm: int = 1,
        mode: str = "train",
        combineall: bool = False,
        verbose: bool = True,
        **kwargs: object,
    ) -> None: ...
    def show_summary(self) -> None: ...

class Loader(DataLoader[dict[str, Any]]):
    """torch's loader; it knows that its data set is torchreid's."""

    dataset: ImageDataset

class ImageDataManager:
    """torchreid's loaders of sources and targets."""

    sources: list[str]
    targets: list[str]
    height: int
    width: int
    use_gpu: bool
    transform_tr: Any
    transform_te: Any
    train_loader: Loader
    train_loader_t: Loader | None
    test_loader: dict[str, dict[str, Loader]]
    num_train_pids: int
    num_train_cams: int

    def __init__(
        self, root: str = "", sources: Names = None, targets: Names = None, **kw: object
    ) -> None: ...

class Engine:
    """torchreid's base engine; a method is a subclass with its own ``forward_backward``."""

    datamanager: Any
    train_loader: Any
    test_loader: Any
    use_gpu: bool
    writer: SummaryWriter | None
    epoch: int
    start_epoch: int
    max_epoch: int
    batch_idx: int
    num_batches: int
    model: Any
    optimizer: Any
    scheduler: Any
    _models: OrderedDict[str, torch.nn.Module]
    _optims: OrderedDict[str, torch.optim.Optimizer]
    _scheds: OrderedDict[str, torch.optim.lr_scheduler.LRScheduler]

    def __init__(self, datamanager: Any, use_gpu: bool = True) -> None: ...
    def register_model(
        self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None
    ) -> None: ...
    def get_model_names(self, names: Names = None) -> list[str]: ...
    def save_model(
        self, epoch: int, rank1: float, save_dir: str, is_best: bool = False
    ) -> None: ...
    def set_model_mode(self, mode: str = "train", names: Names = None) -> None: ...
    def get_current_lr(self, names: Names = None) -> float: ...
    def update_lr(self, names: Names = None) -> None: ...
    def run(self, save_dir: str = "log", max_epoch: int = 0, **kwargs: Any) -> object: ...
    def train(
        self, print_freq: int = 10, fixbase_epoch: int = 0, open_layers: Names = None
    ) -> object: ...
    def forward_backward(self, data: Any) -> dict[str, float]: ...
    def test(self, dist_metric: str = "euclidean", **kwargs: Any) -> object: ...
    def parse_data_for_train(self, data: Any) -> tuple[torch.Tensor, torch.Tensor]: ...
    def parse_data_for_eval(self, data: Any) -> tuple[Any, Any, Any]: ...
    def extract_features(self, input: torch.Tensor) -> torch.Tensor: ...
