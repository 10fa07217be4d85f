"""A model, crops and the right answers for tools/load.py, and one call with whatever goes wrong."""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from embae_plugin import FeatureExtractor
from embae_plugin import torchreid_bridge as bridge
from embae_plugin.data.image_bank import CorruptImageError
from embae_plugin.models.bundle import Bundle, save_bundle
from embae_plugin.models.camera_norm import camera_layers
from embae_plugin.models.door import open_model
from embae_plugin.models.embae import EmbAE
from embae_plugin.models.input_spec import InputSpec
from embae_plugin.models.trunks import build_trunk

CAMERAS, POOL, MOST = 12, 60, 40  # of the tiny network; crops; those of a call
TOLERANCE = 1e-4  # of the largest number in any embedding
KINDS = {"named": 68, "each": 10, "none": 5, "files": 5, "unknown": 2, "empty": 1, "array": 2,
         "file": 1, "stranger": 2, "raises": 2, "left": 2}
REFUSED = {"array": ValueError, "file": CorruptImageError, "stranger": ValueError,
           "raises": ZeroDivisionError}
BROKEN = (np.zeros(3, np.uint8), np.zeros((8, 4), np.uint8), np.zeros((8, 4, 3)), 7, None,
          np.zeros((0, 4, 3), np.uint8), np.zeros((8, 4, 4), np.uint8), torch.zeros(1, 8, 4))


@torch.no_grad()
def write_tiny(path: Path, crops: list[np.ndarray]) -> None:
    """A network of twelve cameras, as `embae adapt` leaves one, that costs next to nothing."""
    draw, half = torch.Generator().manual_seed(0), (0.5, 0.5, 0.5)
    model = EmbAE(build_trunk("mobilenetv1_x0_25", generator=draw), z_id_dim=32, generator=draw)
    for _ in range(20):  # batch norms that fit images
        model(torch.randn(32, 3, 32, 16, generator=draw))
    model.learn_cameras("trunk", [f"camera {n}" for n in range(CAMERAS)])
    for layer in camera_layers(model):
        layer.running_mean[:-1] += 0.3 * torch.randn(layer.running_mean[:-1].shape, generator=draw)
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1
    marks = model.guess.marks(F.interpolate(pixels, (32, 16), mode="bilinear", antialias=True))
    model.guess.learn(marks.numpy(), np.arange(POOL) % CAMERAS)
    save_bundle(path, Bundle(model.eval(), InputSpec(32, 16, half, half)))


class World:
    """A model, crops, and the right answers: ``wanted`` (C + 1, crops, d); −1: no camera's own."""

    @torch.no_grad()
    def __init__(self, checkpoint: str, folder: str, place: Path) -> None:
        light = np.random.default_rng(0).uniform(0.3, 1, (CAMERAS, 3))
        noise = np.random.default_rng(1).integers(0, 256, (POOL, 48, 24, 3))
        self.crops = [np.uint8(noise[n] * light[n % CAMERAS]) for n in range(POOL)]
        if folder:
            found = sorted(path for path in Path(folder).rglob("*.*") if path.is_file())
            found = [found[n * len(found) // POOL] for n in range(POOL)]
            self.crops = [np.asarray(Image.open(path).convert("RGB")) for path in found]
        self.files, self.nothing = [str(place / f"{n}.png") for n in range(POOL)], place / "0.pth"
        torch.save({}, self.nothing)
        for crop, path in zip(self.crops, self.files, strict=True):
            Image.fromarray(crop).save(path)
        if not checkpoint:
            write_tiny(place / "tiny.pth", self.crops)
        path = Path(checkpoint or place / "tiny.pth")
        self.ours = FeatureExtractor(model_path=path, device="cpu", verbose=False)
        bundle, spec = open_model(path), self.ours.reid.input
        with bridge.quiet():  # its network is replaced by the checkpoint's
            self.theirs = bridge.FeatureExtractor(
                "osnet_x0_25", str(self.nothing), (spec.height, spec.width), list(spec.norm_mean),
                list(spec.norm_std), device="cpu", verbose=False)
        pixels = torch.stack([self.theirs.preprocess(Image.fromarray(c)) for c in self.crops])
        model, self.names = bundle.model, bundle.camera_names
        plain = [model.of_camera(n).eval() for n in (*range(len(self.names)), -1)]
        self.theirs.model, self.wanted = plain[0], np.stack([net(pixels).numpy() for net in plain])
        self.guess = np.full(POOL, -1) if model.guess is None else model.guess(pixels).numpy()
        self.scale = np.abs(self.wanted).max()
        self.apart = min(np.abs(a - b).max(1).min() / self.scale
                         for n, a in enumerate(self.wanted) for b in self.wanted[:n])

    def call(self, draw: random.Random, home: int, kind: str) -> str:
        """Makes one call; what went wrong, or ""."""
        rows = draw.choices(range(POOL), k=0 if kind == "empty" else round(MOST ** draw.random()))
        numbers = [draw.randrange(len(self.names)) for _ in rows]
        crops, name = [self.crops[row] for row in rows], self.names[home]
        images, camera, right = {
            "each": (crops, [self.names[n] for n in numbers], numbers),
            "none": (crops, None, self.guess[rows]),
            "unknown": (crops, "unknown", self.guess[rows]),  # as it is not one of those it knows
            "files": ([self.files[row] for row in rows], name, home),
            "array": ([*crops, draw.choice(BROKEN)], name, home),
            "file": ([*crops, self.nothing], name, home),
            "stranger": (crops, "nobody's", home),
            "raises": ((crops[n] if n else 1 / 0 for n in reversed(range(len(crops)))), name, home),
        }.get(kind, (crops, name, home))
        try:
            found = self.ours(images, camera=camera).numpy()
        except REFUSED.get(kind, ()):
            return ""
        except Exception as error:
            return f"{kind}: {error!r}"
        wanted = self.wanted[right, rows]
        if kind in REFUSED or found.shape != wanted.shape:
            return f"{kind}: {found.shape} for {len(rows)} crops"
        error = np.abs(found - wanted).max(initial=0) / self.scale
        return f"{kind}: off by {error:.1g}" if error > TOLERANCE else ""
