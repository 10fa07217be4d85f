"""The built-in cameras as torchreid datasets; drawn under the root on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embae_plugin.data.datasets.catalog import find_spec
from embae_plugin.data.datasets.generation import generate, in_use, read_metadata
from embae_plugin.data.datasets.shots import names, plan, scaled
from embae_plugin.torchreid_bridge import ImageDataset


class BuiltInCameras(ImageDataset):
    """A procedural multi-camera pedestrian data set; the subclasses name which one.

    Args:
        root: folder that holds, or will hold, the set's own folder ``dataset_dir``.
        scale, seed: as for :func:`~embae_plugin.data.datasets.generation.generate`. Left out,
            a set that is there is taken as it is, and a new one gets scale 1 and seed 0.
        kwargs: torchreid's (``mode``, ``transform``, ``combineall``, ``verbose``, ...).

    Raises:
        ValueError: the folder holds something else, or the set of another generator version,
            scale or seed.
        FileNotFoundError: images are missing from the folder.
    """

    # Gallery pictures of people who are never asked for.
    _junk_pids = [0]  # noqa: RUF012 (torchreid's own way of saying it)
    dataset_dir = ""

    def __init__(
        self, root: str = "", scale: float | None = None, seed: int | None = None, **kwargs: Any
    ) -> None:
        folder = Path(root).expanduser().absolute() / type(self).dataset_dir
        if not in_use(folder):
            generate(folder.name, root, 1.0 if scale is None else scale, seed or 0)
        self.root, self.dataset_dir = str(folder.parent), str(folder)
        subsets = planned_items(folder, scale, seed)
        paths = [path for items in subsets.values() for path, _, _ in items]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} is damaged: it lacks {len(missing)} of {len(paths)} images, e.g. "
                f"{missing[0]}. Remove the folder and it will be drawn anew."
            )
        pids = sorted({pid for _, pid, _ in subsets["train"]})
        train = [(path, pids.index(pid), camid) for path, pid, camid in subsets["train"]]
        super().__init__(train, subsets["query"], subsets["gallery"], **kwargs)


class SyntheticSourceA(BuiltInCameras):
    """160 training and 60 test people, 4 cameras outdoors in summer; Market-like layout."""

    dataset_dir = "synthetic_source_a"


class SyntheticSourceB(BuiltInCameras):
    """70 training and 30 test people, 3 cameras in an office; WARD-like layout."""

    dataset_dir = "synthetic_source_b"


class SyntheticTarget(BuiltInCameras):
    """150 training and 100 test people, 6 cameras with strong casts; Market-like layout."""

    dataset_dir = "synthetic_target"


def planned_items(
    folder: Path, scale: float | None = None, seed: int | None = None
) -> dict[str, list[tuple[str, int, int]]]:
    """(path, person, 0-based camera) of what was drawn into ``folder``, by subset, sorted by path.

    scale, seed, raises: see :func:`~embae_plugin.data.datasets.generation.read_metadata`.
    """
    metadata = read_metadata(folder, scale, seed)
    spec = scaled(find_spec(folder.name), metadata["scale"])
    shots = plan(spec, metadata["seed"])
    items: dict[str, list[tuple[str, int, int]]] = {"train": [], "query": [], "gallery": []}
    for shot, name in zip(shots, names(spec, shots), strict=True):
        items[shot.subset].append((str(folder / name), shot.pid, shot.camera))
    return {subset: sorted(found) for subset, found in items.items()}
