"""What is exported: from pixels to embeddings, preprocessing included."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.bundle import Bundle
from embae_plugin.models.camera_norm import knows_cameras

INPUT = "float32 (batch, 3, height, width), R G B, values from 0 to 1, not normalised"


class ImagesToEmbeddings(nn.Module):
    """A model with its preprocessing: images (B, 3, H, W) in [0, 1] to embeddings (B, d).

    The normalisation is in the graph, where nobody can get it wrong.

    Args:
        bundle: the model; put into eval mode.
        normalize: scale embeddings to length 1.
        flip: average each image's embedding with its mirror image's, before that.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, bundle: Bundle, normalize: bool = True, flip: bool = False) -> None:
        super().__init__()
        self.model = bundle.model.eval().requires_grad_(False)
        self.normalize, self.flip, self.cameras = normalize, flip, knows_cameras(bundle.model)
        for name, values in (("mean", bundle.input.norm_mean), ("std", bundle.input.norm_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.eval()  # its own flag, too: torch.onnx puts the model back into the mode it has

    def forward(self, images: torch.Tensor, camera: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings.

        Args:
            images: (B, 3, H, W) float in [0, 1].
            camera: (B,) int64 numbers of the model's cameras, −1 for one it has never seen; only
                for a model that knows cameras apart.
        """
        x = (images - self.mean) / self.std
        z = self._embed(x, camera)
        if self.flip:
            z = (z + self._embed(x.flip(3), camera)) / 2
        return F.normalize(z, dim=1) if self.normalize else z

    def _embed(self, x: torch.Tensor, camera: torch.Tensor | None) -> torch.Tensor:
        rest = (camera,) if self.cameras and camera is not None else ()
        return cast(torch.Tensor, self.model(x, *rest)).float()


def describe(bundle: Bundle, normalize: bool, flip: bool) -> dict[str, Any]:
    """What a user of the file must know, in plain values; it is written into the file."""
    from embae_plugin import __version__

    return {
        "embae_version": __version__,
        "input": INPUT,
        "height": bundle.input.height,
        "width": bundle.input.width,
        "mean": list(bundle.input.norm_mean),
        "std": list(bundle.input.norm_std),
        "preprocessing_in_graph": True,
        "embedding_dim": bundle.model.feature_dim,
        "normalized": normalize,
        "flip_averaged": flip,
        "trunk": bundle.model.trunk.name,
        "camera_names": list(bundle.camera_names) if knows_cameras(bundle.model) else [],
    }
