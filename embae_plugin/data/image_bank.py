"""Every image decoded and resized once, kept as uint8 where the training step can reach it.

torchreid decodes each JPEG again in every epoch; at the paper's batch of 72 that, not the
network, is what one waits for. Decoded 256 x 128 crops take 98 kB each, so Market-1501's
32,668 need 3.2 GB: they fit on a GPU or in host memory, and else in a memory-mapped file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from embae_plugin.atomic_file import replacing
from embae_plugin.data.parallel import can_fork, forked, shared_array

logger = logging.getLogger(__name__)

_FORMAT = "embae-images-1"
MANY = 1000  # images, from which on processes decode in place of threads


class CorruptImageError(ValueError):
    """One or more image files cannot be decoded; ``failures`` lists (path, reason).

    ``pixels`` holds what was decoded before the error was raised, if that is kept in memory.
    """

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        self.failures = list(failures)
        self.pixels: torch.Tensor | None = None
        shown = "\n".join(f"  {path}: {reason}" for path, reason in self.failures[:10])
        more = len(self.failures) - 10
        tail = f"\n  and {more} more" if more > 0 else ""
        super().__init__(
            f"{len(self.failures)} image file(s) cannot be read:\n{shown}{tail}\n"
            "replace or remove them and start again"
        )


def decode(path: str, height: int, width: int, least_side: int = 1) -> np.ndarray:
    """One image file as uint8 (height, width, 3), RGB, resized bilinearly.

    The same pixels as torchreid's ``read_image`` followed by torchvision's ``Resize`` (both use
    Pillow's antialiased bilinear filter). As there, a camera's note to turn the picture (EXIF) is
    not followed, transparency is dropped, and 16-bit grey is Pillow's reading of it.

    Raises:
        ValueError: the file is missing, no image, truncated, larger than Pillow's bomb limit, or
            has fewer than ``least_side`` pixels on a side.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except FileNotFoundError:
        raise ValueError("the file does not exist") from None
    except PermissionError:
        raise ValueError("no permission to read it") from None
    except UnidentifiedImageError:
        raise ValueError("not an image, or an empty file") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise ValueError(f"damaged: {error}") from None
    if min(rgb.size) < least_side:
        raise ValueError(f"{rgb.size[0]} x {rgb.size[1]} pixels: fewer than {least_side} on a side")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return hashlib.blake2b(stream.read(), digest_size=16).digest()
    except OSError:
        return b"unreadable"  # decoding will say what is wrong with it


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def content_key(paths: Sequence[str], height: int, width: int) -> str:
    """A name for these pixels: a hash over the files' contents, in order, and the size."""
    total = hashlib.blake2b(f"{_FORMAT} {height}x{width}".encode(), digest_size=12)
    with ThreadPoolExecutor(_workers()) as pool:
        for digest in pool.map(_digest, paths, chunksize=64):
            total.update(digest)
    return total.hexdigest()


def _decode_into(out: np.ndarray, paths: Sequence[str], label: str, least_side: int = 1) -> None:
    """Fills ``out`` (N, H, W, 3), which is memory that forked processes share, in parallel."""
    height, width = out.shape[1:3]

    def work(index: int) -> tuple[str, str] | None:
        try:
            out[index] = decode(paths[index], height, width, least_side)
        except ValueError as error:
            return paths[index], str(error)
        return None

    with tqdm(total=len(paths), desc=f"decode {label}", unit="img", disable=None) as bar:
        if len(paths) >= MANY and _workers() > 1 and can_fork():
            failures = forked(work, len(paths), _workers(), bar)
        else:
            failures = _by_threads(work, len(paths), bar)
    if failures:
        raise CorruptImageError(failures)


def _by_threads(
    work: Callable[[int], tuple[str, str] | None], count: int, bar: tqdm[Any]
) -> list[tuple[str, str]]:
    failures = []
    with ThreadPoolExecutor(_workers()) as pool:
        for failure in pool.map(work, range(count)):
            bar.update()
            failures += [] if failure is None else [failure]
    return failures


def _mapped(
    path: Path, shape: tuple[int, ...], mode: Literal["r+", "c"]
) -> np.memmap[Any, np.dtype[np.uint8]]:
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=shape)


def _reserve(path: Path, size: int) -> None:
    """Makes a file ``size`` bytes long and, where the system can, sure of its space."""
    with path.open("r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)


def _decode_to_file(
    folder: Path,
    key: str,
    paths: Sequence[str],
    shape: tuple[int, ...],
    label: str,
    least_side: int = 1,
) -> np.ndarray:
    """The decoded images as a file in ``folder``; made once, mapped by every later run."""
    final = folder / f"images-{key}.bin"
    size = int(np.prod(shape))
    if not (final.is_file() and final.stat().st_size == size):
        try:
            with replacing(final) as draft:
                # A full disk must show as an error here, not as a bus error when a page of the
                # mapping is written.
                _reserve(draft, size)
                pixels = _mapped(draft, shape, "r+")
                _decode_into(pixels, paths, label, least_side)
                pixels.flush()
        except OSError as error:
            raise OSError(
                f"cannot keep {size / 1e9:.1f} GB of decoded images in {folder}: {error}; free "
                "some space or name another folder with embae.cache_dir"
            ) from error
    else:
        logger.info("%s: decoded images found in %s", label, final)
    # Copy-on-write, because torch wants writable memory; nothing here writes to it.
    return _mapped(final, shape, "c")


class ImageBank:
    """N images as one uint8 tensor (N, H, W, 3), in the fastest place that has room.

    Args:
        paths: the image files.
        height, width: what they are resized to, in pixels.
        device: where batches are wanted.
        cache_dir: if given, decoded images are kept there as a memory-mapped file, named by
            their content, so that the next run starts at once; if not, they are kept in memory
            while they fit and in a temporary file otherwise.
        memory_share: the share of the free memory (GPU, then host) that the bank may take.
        label: what the progress bar calls them.
        key: the content's name, if it is known already; see :func:`content_key`.
        least_side: an image with fewer pixels on a side counts as one that cannot be decoded.
        pixels: the images themselves, uint8 (N, H, W, 3), if they are decoded already.

    Attributes:
        images: uint8 (N, H, W, 3).
        place: ``cuda``, ``memory`` or ``file``.

    Raises:
        CorruptImageError: lists every file that cannot be decoded.
        ValueError: no images.
    """

    def __init__(
        self,
        paths: Sequence[str],
        height: int,
        width: int,
        device: torch.device | str = "cpu",
        cache_dir: str | Path = "",
        memory_share: float = 0.5,
        label: str = "images",
        key: str = "",
        least_side: int = 1,
        pixels: torch.Tensor | None = None,
    ) -> None:
        if not len(paths):
            raise ValueError(f"{label}: there are no images to read")
        self.paths, self.device, self.label = list(paths), torch.device(device), label
        self.height, self.width = height, width
        self._key = key
        shape = (len(paths), height, width, 3)
        size = int(np.prod(shape))
        fits = size <= memory_share * psutil.virtual_memory().available
        if pixels is not None:
            self.place = "memory"
        elif cache_dir or not fits:
            folder = Path(cache_dir or tempfile.mkdtemp(prefix="embae-"))  # for its owner alone
            if not cache_dir:
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                logger.warning("%s: %.1f GB do not fit in memory; decoding to %s. embae.cache_dir "
                               "names another folder", label, size / 1e9, folder)  # fmt: skip
            self.place = "file"
            mapped = _decode_to_file(folder, self.key, paths, shape, label, least_side)
            pixels = torch.from_numpy(mapped)
        else:
            self.place = "memory"
            pixels = torch.from_numpy(shared_array(shape))
            try:
                _decode_into(pixels.numpy(), paths, label, least_side)
            except CorruptImageError as error:
                error.pixels = pixels
                raise
        self.images = self._settle(pixels, size, memory_share)

    def _settle(self, pixels: torch.Tensor, size: int, share: float) -> torch.Tensor:
        """To the GPU if it fits there, else to pinned memory, so that copies overlap with work."""
        if self.device.type != "cuda":
            return pixels
        free, _ = torch.cuda.mem_get_info(self.device)
        if size <= share * free:
            self.place = "cuda"
            return pixels.to(self.device)
        return pixels.pin_memory() if self.place == "memory" else pixels

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def key(self) -> str:
        """The content's name (see :func:`content_key`); computed when first asked for."""
        if not self._key:
            self._key = content_key(self.paths, self.height, self.width)
        return self._key

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """The images at ``index`` (B,) as uint8 (B, H, W, 3) on the device."""
        picked = self.images[index.to(self.images.device)]
        return picked.to(self.device, non_blocking=True)
