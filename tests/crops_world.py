"""A tiny model with an autoencoder, and folders of crops of a few people on a few cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.camera_norm import camera_layers
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import build_trunk

HEIGHT, WIDTH = 32, 16
INPUT = InputSpec(HEIGHT, WIDTH, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def tiny_embae(seed: int = 0, cameras: tuple[str, ...] = ()) -> EmbAE:
    """A narrow EmbAE with random weights, and batch statistics that fit images.

    With ``cameras`` it has statistics of each, as `embae adapt` leaves them; those of cameras
    never seen are what it has without.
    """
    generator = torch.Generator().manual_seed(seed)
    trunk = build_trunk("mobilenetv1_x0_25", generator=generator)
    model = EmbAE(trunk, z_id_dim=8, z_nui_dim=6, hidden_dim=16, generator=generator)
    images = torch.randn(32, 3, HEIGHT, WIDTH, generator=generator)
    with torch.no_grad():
        for _ in range(20):
            model(images)
    if cameras:
        model.learn_cameras("trunk", cameras)
        tell_apart(model, seed)
    return model.eval()


@torch.no_grad()
def tell_apart(module: nn.Module, seed: int = 0, by: float = 0.15) -> None:
    """Moves each camera's statistics by about ``by`` standard deviations, each another way."""
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in camera_layers(module):
        mean, var = layer.running_mean[:-1], layer.running_var[:-1]
        mean += by * var.sqrt() * torch.randn(mean.shape, generator=generator)
        var *= (by * torch.randn(var.shape, generator=generator)).exp()


def write_checkpoint(path: Path, seed: int = 0, cameras: tuple[str, ...] = ()) -> Path:
    """A bundle of :func:`tiny_embae` in a file."""
    save_bundle(path, Bundle(tiny_embae(seed, cameras), INPUT, {"source": "a test"}))
    return path


def picture(pid: int, camera: int, shot: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    """Somebody in two colours, under a camera's cast, with noise; ``size`` (width, height)."""
    clothes = np.random.default_rng(pid).uniform(40, 215, (2, 1, 1, 3))
    cast = np.random.default_rng(1000 + camera).uniform(0.6, 1.2, 3)
    pixels = np.broadcast_to(clothes, (2, size[1] // 2, size[0], 3)).reshape(-1, size[0], 3) * cast
    noise = np.random.default_rng((pid, camera, shot)).normal(0, 12, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def write_crops(
    root: Path, people: int = 4, cameras: int = 2, each: int = 2, suffix: str = ".png"
) -> list[Path]:
    """``root/cam_a/0003_1.png``: person 3, shot 1; camera by camera."""
    paths = []
    for camera in range(cameras):
        folder = root / f"cam_{'abcdef'[camera]}"
        folder.mkdir(parents=True, exist_ok=True)
        for pid in range(people):
            for shot in range(each):
                paths.append(folder / f"{pid:04d}_{shot}{suffix}")
                picture(pid, camera, shot).save(paths[-1])
    return paths


def followed(method: str, *pairs: str) -> list[str]:
    """Those of the ``key value`` pairs that `embae adapt` reads for a method."""
    nodes = {"norm": (), "reconstruction": ("autoencoder", "transfer", "nuisance")}
    begins = [f"embae.{n}." for n in nodes.get(method, ("clusters", "embedding"))]
    kept = zip(pairs[::2], pairs[1::2], strict=True)
    return [text for pair in kept if pair[0].startswith(("embae.adapt.", *begins)) for text in pair]
