"""Every image decoded and resized once, kept as uint8 where the training step can reach it.

torchreid decodes each JPEG again in every epoch; at the paper's batch of 72 that, not the
network, is what one waits for. Decoded 256 x 128 crops take 98 kB each, so Market-1501's
32,668 need 3.2 GB: they fit on a GPU or in host memory, and else in a memory-mapped file.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from embae_plugin.atomic_file import replacing
from embae_plugin.data.parallel import can_fork, cpu_count, in_parallel, shared_array
from embae_plugin.progress import progress

logger = logging.getLogger(__name__)

MANY = 1000  # images, from which on processes decode in place of threads
SOME = 64  # files, from which on threads decode them; for fewer, or arrays, they cost too much
Pixels = NDArray[np.uint8]
PATHS = (str, Path)


class CorruptImageError(ValueError):
    """One or more image files cannot be decoded; ``failures`` lists (path, reason).

    ``pixels`` (N, H, W, 3) holds what was decoded nevertheless, if that is kept in memory.
    """

    def __init__(self, failures: Iterable[tuple[str, str]], pixels: Pixels | None = None) -> None:
        self.failures, self.pixels = list(failures), pixels
        super().__init__(
            f"{len(self.failures)} image file(s) cannot be read:{shortened(self.failures)}\n"
            "replace or remove them and start again"
        )


def shortened(failures: Sequence[tuple[str, str]]) -> str:
    """The first ten of (path, reason), one line each, and how many more there are."""
    more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
    return "".join(f"\n  {path}: {reason}" for path, reason in failures[:10]) + more


def decode(path: str, height: int, width: int, least_side: int = 1) -> Pixels:
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
    return resized(rgb, height, width)


def resized(image: Image.Image, height: int, width: int) -> Pixels:
    """A picture as uint8 (height, width, 3), RGB, by Pillow's antialiased bilinear filter."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def content_key(paths: Sequence[str], height: int, width: int) -> str:
    """A name for these pixels: a hash over the files' contents, in order, and the size."""

    def digest(path: str) -> bytes:
        try:
            return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
        except (OSError, ValueError):
            return b"unreadable"  # decoding will say what is wrong with it

    total = hashlib.blake2b(f"embae-images-1 {height}x{width}".encode(), digest_size=12)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for found in progress(pool.map(digest, paths), "read", len(paths), "file", delay=2.0):
            total.update(found)
    return total.hexdigest()


def decode_all(
    out: Pixels, items: Sequence[Any], read: Callable[[Any], Pixels], label: str = "",
    first: int = 0, processes: bool = False,
) -> None:
    """Sets ``out[n]``, an image (H, W, 3), to ``read(items[n])`` for all n, in parallel.

    Args:
        label: what a progress bar calls them; "" for no bar.
        first: number of ``items[0]`` among those that the caller has, for messages.
        processes: many are read by processes, which share ``out``.

    Raises:
        CorruptImageError: lists every file for which ``read`` raised ValueError.
        ValueError: it raised one for an item that is no file, which has a number for a name.
    """

    def work(index: int) -> tuple[str, str] | None:
        item = items[index]
        try:
            out[index] = read(item)
        except ValueError as error:
            if not isinstance(item, PATHS):
                raise ValueError(f"image {first + index} (counted from 0): {error}") from None
            return str(item), str(error)
        return None

    count, workers = len(items), cpu_count()
    forked = processes and count >= MANY and workers > 1 and can_fork()
    results: Iterable[tuple[str, str] | None] = map(work, range(count))
    if forked or (count >= SOME and isinstance(items[0], PATHS)):
        results = in_parallel(work, count, workers, forked)
    results = progress(results, f"decode {label}", count) if label else results
    if failures := [failure for failure in results if failure is not None]:
        raise CorruptImageError(failures, None if isinstance(out, np.memmap) else out)


def _decode_to_file(
    final: Path, shape: tuple[int, ...], label: str, fill: Callable[[Pixels], None]
) -> Pixels:
    """The decoded images as a file; made once, mapped by every later run."""
    size = math.prod(shape)
    if final.is_file() and final.stat().st_size == size:
        logger.info("%s: decoded images found in %s", label, final)
    else:
        try:
            with replacing(final) as draft:
                with draft.open("r+b") as stream:
                    # A full disk must show as an error here, not as a bus error when a page of
                    # the mapping is written.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(stream.fileno(), 0, size)
                    else:
                        stream.truncate(size)
                pixels = np.memmap(draft, np.uint8, "r+", shape=shape)
                fill(pixels)
                pixels.flush()
        except OSError as error:
            raise OSError(
                f"cannot keep {size / 1e9:.1f} GB of decoded images in {final.parent}: {error}; "
                "free some space or name another folder with embae.cache_dir"
            ) from error
    # Copy-on-write, because torch wants writable memory; nothing here writes to it.
    return np.memmap(final, np.uint8, "c", shape=shape)


class ImageBank:
    """N images as one uint8 tensor (N, H, W, 3), in the fastest place that has room.

    With a ``cache_dir`` decoded images are kept there as a memory-mapped file, named by their
    content, so that the next run starts at once; without one, they are kept in memory while they
    fit and in a temporary file otherwise.

    Args:
        height, width: what images are resized to, in pixels.
        device: where batches are wanted.
        memory_share: the share of the free memory (GPU, then host) that the bank may take.
        label: what the progress bar calls them.
        key: :func:`content_key`, if it is known already.
        least_side: see :func:`decode`.
        pixels: ``images``, if they are decoded already.

    Attributes:
        images: uint8 (N, H, W, 3).
        place: ``cuda``, ``memory`` or ``file``.

    Raises:
        CorruptImageError: lists every file that cannot be decoded.
        ValueError: no images.
    """

    def __init__(
        self, paths: Sequence[str], height: int, width: int, device: torch.device | str = "cpu",
        cache_dir: str | Path = "", memory_share: float = 0.5, label: str = "images",
        key: str = "", least_side: int = 1, pixels: Pixels | None = None,
    ) -> None:
        if not len(paths):
            raise ValueError(f"{label}: there are no images to read")
        self.paths, self.device, self.label = tuple(paths), torch.device(device), label
        self.place, shape = "memory", (len(paths), height, width, 3)
        size = math.prod(shape)

        def read(path: str) -> Pixels:
            return decode(path, height, width, least_side)

        fill = partial(decode_all, items=paths, read=read, label=label, processes=True)
        room = memory_share * psutil.virtual_memory().available
        if pixels is None and (cache_dir or size > room):
            self.place = "file"
            folder = Path(cache_dir or tempfile.mkdtemp(prefix="embae-"))  # for its owner alone
            if not cache_dir:
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                logger.warning(
                    "%s: %.1f GB do not fit in memory; decoding to %s. embae.cache_dir names "
                    "another folder", label, size / 1e9, folder
                )
            key = key or content_key(paths, height, width)
            pixels = _decode_to_file(folder / f"images-{key}.bin", shape, label, fill)
        elif pixels is None:
            pixels = shared_array(shape)
            fill(pixels)
        self.images = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            # To the GPU if it fits there, else to pinned memory, so that copies overlap with work.
            if size <= memory_share * torch.cuda.mem_get_info(self.device)[0]:
                self.images, self.place = self.images.to(self.device), "cuda"
            elif self.place == "memory":
                self.images = self.images.pin_memory()

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """The images at ``index`` (B,) as uint8 (B, H, W, 3) on the device."""
        picked = self.images[index.to(self.images.device)]
        return picked.to(self.device, non_blocking=True)
