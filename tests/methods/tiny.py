"""A tiny Re-ID world for engine tests: coloured crops of a few people on a few cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords, ReIDData
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.trunks import Trunk, build_trunk

HEIGHT, WIDTH = 32, 16


def write_crops(
    folder: Path, people: int, cameras: int, each: int, dsetid: int = 0
) -> ImageRecords:
    """People differ by the colours of an upper and a lower half, cameras by a colour cast."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(people * 100 + cameras * 10 + dsetid)
    clothes = rng.uniform(40, 215, (people, 2, 3))
    casts = rng.uniform(0.6, 1.2, (cameras, 3))
    items = []
    for pid in range(people):
        for camid in range(cameras):
            for shot in range(each):
                picture = np.repeat(clothes[pid], HEIGHT // 2, axis=0)[:, None] * casts[camid]
                picture = picture + rng.normal(0, 12, (HEIGHT, WIDTH, 3))
                path = folder / f"{pid:04d}_c{camid}_{shot}.png"
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
                items.append((str(path), pid, camid, dsetid))
    return ImageRecords.from_items(items)


def join(*parts: ImageRecords) -> ImageRecords:
    """Several datasets' records as one, identities kept apart."""
    offset, pids = 0, []
    for part in parts:
        pids.append(part.pids + offset)
        offset += int(part.pids.max()) + 1
    return ImageRecords(
        paths=tuple(path for part in parts for path in part.paths),
        camids=np.concatenate([part.camids for part in parts]),
        dsetids=np.concatenate([part.dsetids for part in parts]),
        pids=np.concatenate(pids),
    )


def tiny_data(folder: Path) -> ReIDData:
    """Two sources (2 and 3 cameras), a target with 3 cameras, its query and gallery."""
    source = join(
        write_crops(folder / "a", 6, 2, 3, 0),
        write_crops(folder / "b", 5, 3, 2, 1),
    )
    test = write_crops(folder / "test", 8, 3, 2)
    first = np.array([path.endswith("_0.png") for path in test.paths])
    return ReIDData(
        sources=["a", "b"],
        source=source,
        target="t",
        target_train=write_crops(folder / "t", 7, 3, 3).unlabelled(),
        query=pick(test, first),
        gallery=pick(test, ~first),
    )


def pick(records: ImageRecords, mask: np.ndarray) -> ImageRecords:
    """The records where ``mask`` is true."""
    return ImageRecords(
        paths=tuple(p for p, keep in zip(records.paths, mask, strict=True) if keep),
        camids=records.camids[mask],
        dsetids=records.dsetids[mask],
        pids=None if records.pids is None else records.pids[mask],
    )


def tiny_model(seed: int = 0) -> EmbAE:
    """A narrow EmbAE with random weights."""
    torch.manual_seed(seed)
    return EmbAE(build_trunk("mobilenetv1_x0_25"), z_id_dim=8, z_nui_dim=6, hidden_dim=16)


def two_layer_trunk() -> Trunk:
    """Two convolutions, for tests that train a trunk for many steps; no name builds it again."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 4, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 12, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    return Trunk("two layers", net, 12, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def two_layer_model() -> EmbAE:
    """A narrow EmbAE on a trunk of two convolutions."""
    return EmbAE(two_layer_trunk(), z_id_dim=8, z_nui_dim=6, hidden_dim=16)


def tiny_store(cache_dir: Path | str = "") -> FeatureStore:
    """Banks for the tiny crops."""
    half = (0.5, 0.5, 0.5)
    return FeatureStore(HEIGHT, WIDTH, half, half, "cpu", cache_dir=cache_dir)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Whether two modules hold the same bits."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
