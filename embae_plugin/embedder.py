"""The one road from images, and the names of their cameras, to embeddings.

Whatever embeds goes through here: single images and batches of a running program
(:class:`Embedder`), and lists of files with their decoded pixels and cached features
(:func:`embed_records`). Cameras are named; what a model does not know is embedded with the
statistics that all its cameras have in common, and said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from numbers import Number
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from embae_plugin.data.augment import normalise
from embae_plugin.data.feature_bank import FeatureStore
from embae_plugin.data.records import ImageRecords
from embae_plugin.data.single_images import as_items, decoded, tensor_batch
from embae_plugin.evaluation.tta import embed_views
from embae_plugin.models.camera_norm import knows_cameras
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.inference import FrozenTrunks, inference_format
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.weight_files import few
from embae_plugin.precision import full_precision

logger = logging.getLogger(__name__)

TTA = ("none", "flip")
UNKNOWN = "unknown"  # stands for a camera that the model has never seen
_LONG = 2000  # images that take some seconds on a CPU
_SHOWN = 6  # names in a message


class Embedder:
    """Embeds images by a model; safe to use from several threads.

    Args:
        model: in eval mode, on ``device``.
        spec: what images are brought to.
        device: where to compute.
    """

    def __init__(self, model: EmbAE, spec: InputSpec, device: torch.device) -> None:
        self.device, self._order = device, inference_format(device)
        self.model = model.to(device).to(memory_format=self._order).eval()
        self.spec = spec
        self._trunks = FrozenTrunks()
        self._warned = False

    @torch.inference_mode()
    def images(
        self,
        images: Any,
        cameras: Any = None,
        normalize: bool = True,
        tta: str = "flip",
        batch_size: int = 0,
        bgr: bool = False,
    ) -> torch.Tensor:
        """Embeddings (N, d) of images of any kind and size; see :meth:`ReID.embed`."""
        if tta not in TTA:
            raise ValueError(f"tta {tta!r}: must be one of {', '.join(TTA)}")
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 0:
            raise ValueError(f"batch_size {batch_size!r}: a whole number, 0 for the device's own")
        items = as_items(images)
        camids = self.camera_numbers(cameras, len(items))
        step = int(batch_size) or (256 if self.device.type == "cuda" else 64)
        done, parts = 0, [torch.zeros(0, self.model.feature_dim, device=self.device)]
        for batch in self._batches(items, step, bgr):
            of = None if camids is None else camids[done : done + len(batch)]
            parts.append(self.batch(batch, of, normalize, tta))
            done += len(batch)
        return torch.cat(parts)

    @torch.inference_mode()
    def batch(
        self,
        batch: torch.Tensor,
        camids: torch.Tensor | None = None,
        normalize: bool = True,
        tta: str = "flip",
    ) -> torch.Tensor:
        """Embeddings (B, d) of images (B, 3, H, W) that are resized and normalised already.

        Args:
            camids: (B,) numbers of :meth:`camera_numbers`; None for cameras never seen.
        """
        if not len(batch):  # as of a frame without people, which not every network takes
            return torch.zeros(0, self.model.feature_dim, device=self.device)
        camids = None if camids is None else camids.to(self.device)
        z = self._forward(batch, camids)
        if tta == "flip":
            z = (z + self._forward(batch.flip(3), camids)) / 2
        return F.normalize(z, dim=1) if normalize else z

    def _forward(self, batch: torch.Tensor, camids: torch.Tensor | None) -> torch.Tensor:
        with full_precision(self.device):
            h = self._trunks.features(self.model.trunk, batch, camids)
            return self.model.embed_features(h, camids).float()

    def camera_numbers(self, cameras: Any, count: int) -> torch.Tensor | None:
        """The model's numbers of cameras, (count,), or None for a model that knows no cameras.

        Args:
            cameras: a name, or a camera number of the model, for all images or in a sequence of
                ``count``; ``"unknown"`` (or None or −1 in a sequence) for a camera that the model
                has never seen. None alone means the same, with a warning: the first time only.

        Raises:
            ValueError: a name or number that the model does not know, or another count.
        """
        if cameras is None:
            self._warn_of_no_camera()
            return None
        single = isinstance(cameras, (str, bytes, Number)) or getattr(cameras, "ndim", 1) == 0
        ordered = isinstance(cameras, Iterable) and not isinstance(cameras, (Set, Mapping))
        if not single and not ordered:
            raise ValueError(f"cameras are a {type(cameras).__name__}: give one name or number for "
                             "all images, or a list of them in the images' order")  # fmt: skip
        cameras = [cameras] * count if single else list(cameras)
        if len(cameras) != count:
            raise ValueError(f"{len(cameras)} cameras for {count} images")
        names = self.model.camera_names
        table: dict[Any, int] = {None: -1, -1: -1, UNKNOWN: -1}
        table.update({n: n for n in range(len(names))})
        table.update({name: n for n, name in enumerate(names)})
        keys = [_camera_key(camera) for camera in cameras]
        pairs = zip(cameras, keys, strict=True)
        unknown = sorted({_shown(camera) for camera, key in pairs if key not in table})
        if unknown and not names:
            raise ValueError(
                f"camera {few(unknown, _SHOWN)}: this model knows no cameras, and embeds all "
                "alike; leave the camera out"
            )
        if unknown:
            raise ValueError(
                f"the model does not know camera {few(unknown, _SHOWN)} (known: "
                f"{few(names, _SHOWN)}); give {UNKNOWN!r} for a camera that it has not been "
                "adapted to"
            )
        return torch.tensor([table[key] for key in keys], dtype=torch.long) if names else None

    def _warn_of_no_camera(self) -> None:
        names = self.model.camera_names
        if names and not self._warned:
            self._warned = True
            logger.warning(
                "this model was adapted to the cameras %s and is not told which of them took "
                "these images, so much of what it gained is lost: name the camera (cameras= or "
                "camera= in Python), or say %r for another one",
                few(names, _SHOWN), UNKNOWN,
            )  # fmt: skip

    def _batches(self, items: Sequence[Any], step: int, bgr: bool) -> Iterator[torch.Tensor]:
        """Normalised float32 (B, 3, H, W) on the device, ``step`` images at a time."""
        spec = self.spec
        short = True if len(items) < _LONG else None  # a bar only where one waits
        starts = range(0, len(items), step)
        for start in tqdm(starts, desc="embed", unit="batch", disable=short):
            block = items[start : start + step]
            if all(isinstance(item, torch.Tensor) for item in block):
                yield tensor_batch(block, spec, self.device, start)
            else:
                pixels = torch.from_numpy(decoded(block, spec, bgr, start)).to(self.device)
                yield normalise(pixels, spec.norm_mean, spec.norm_std)


def _shown(camera: Any) -> str:
    """A camera in a message of one line."""
    return " ".join(repr(camera).split())[:60]


def _camera_key(camera: Any) -> Any:
    """A camera as a name, a whole number or None; what is none of them as something unknown."""
    if camera is None or isinstance(camera, str):
        return camera
    try:
        number = int(camera)
        return number if bool(number == camera) else (repr(camera),)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return (repr(camera),)


def tell_unknown(model: EmbAE, cameras: Iterable[str]) -> str:
    """Which of some cameras the model does not know, in words, and logs it; "" if it knows all.

    A model without statistics by camera treats all alike and knows all.
    """
    unknown = sorted(set(cameras) - set(model.camera_names))
    if not model.camera_names or not unknown:
        return ""
    words = (
        f"the model was not adapted to the camera(s) {few(unknown, _SHOWN)}, whose crops it "
        f"embeds as those of a camera never seen (it knows {few(model.camera_names, _SHOWN)})"
    )
    logger.warning("%s", words)
    return words


def embed_records(
    model: EmbAE,
    store: FeatureStore,
    records: ImageRecords,
    label: str,
    tta: str = "flip",
    normalize: bool = True,
    keep: bool = True,
) -> torch.Tensor:
    """Embeddings of N listed crops, (N, model.feature_dim) float32, averaged over views.

    A model with statistics by camera uses those of each record's camera, by name, and for a name
    that it does not know what all its cameras have in common; see :func:`tell_unknown`.
    """
    features = store.features(model, records, label, tta, keep).features
    return embed_stored(model, features, records, normalize)


def embed_stored(
    model: EmbAE, features: torch.Tensor, records: ImageRecords, normalize: bool = True
) -> torch.Tensor:
    """From trunk features (N, V, D) of N listed crops to embeddings (N, d)."""
    if not knows_cameras(model.f_emb):
        return embed_views(model.embed_features, features, normalize)
    cameras = model.camera_numbers(records.camera_names()).to(features.device)
    found = features.new_empty(len(features), model.feature_dim)
    for camera in torch.unique(cameras):
        rows = cameras == camera
        embed = partial(model.embed_features, camids=camera[None])
        found[rows] = embed_views(embed, features[rows], normalize)
    return found


def embed_each_view(
    model: EmbAE, features: torch.Tensor, records: ImageRecords
) -> torch.Tensor:
    """Embeddings (N, V, d) of trunk features (N, V, D) of N listed crops, each view apart."""
    views = [embed_stored(model, features[:, [n]], records) for n in range(features.shape[1])]
    return torch.stack(views, dim=1)
