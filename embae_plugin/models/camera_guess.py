"""Which of the cameras it knows a model takes a crop for that comes without its camera's name.

Statistics by camera are worth much, and a tracker that loads one file names no camera. Cameras
differ in light, colour, sharpness and background; a linear classifier on such marks of a crop,
learned from the crops that a model is adapted to, tells most cameras apart, and where it errs it
takes a camera that looks alike, whose statistics serve nearly as well.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

SIZE = (128, 64)  # that a crop's marks are taken at
FILTERS = 64
MARKS = 66 + 2 * FILTERS
NEVER = -1e4  # bias of a camera that is never guessed


def _std(x: torch.Tensor) -> torch.Tensor:
    """Standard deviations along the last axis; torch's own take several times as long on a CPU."""
    return ((x - x.mean(-1, keepdim=True)).square().sum(-1) / (x.shape[-1] - 1)).sqrt()


def _colours(x: torch.Tensor) -> torch.Tensor:
    """(B, 66) of pixels (B, 3, 128, 64): brightness, contrast, colour casts, edges, border."""
    chroma = torch.stack([x[:, 0] - x[:, 1], x[:, 2] - x[:, 1], x.amax(1) - x.amin(1)], 1)
    parts = [
        x.mean((2, 3)), _std(x.flatten(2)),
        F.avg_pool2d(x, (16, 64)).flatten(1),
        x[..., :6].mean((2, 3)), x[..., -6:].mean((2, 3)),
        x[..., :8, :].mean((2, 3)), x[..., -8:, :].mean((2, 3)),
        (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3)),
        (x[..., 1:] - x[..., :-1]).abs().mean((2, 3)),
        chroma.mean((2, 3)), _std(chroma.flatten(2)),
        F.avg_pool2d(chroma, (32, 64)).flatten(1),
    ]
    return torch.cat(parts, 1)


class CameraGuess(nn.Module):
    """A linear classifier of cameras on colours and on how random filters answer.

    Args:
        cameras: C.
    """

    norm_mean: torch.Tensor
    norm_std: torch.Tensor
    filters: torch.Tensor
    centre: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, cameras: int) -> None:
        super().__init__()
        filters = torch.randn(FILTERS, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        filters -= filters.mean((2, 3), keepdim=True)
        self.register_buffer("norm_mean", torch.zeros(3))
        self.register_buffer("norm_std", torch.ones(3))
        self.register_buffer("filters", F.normalize(filters.flatten(1)).view_as(filters))
        self.register_buffer("centre", torch.zeros(MARKS))
        self.register_buffer("weight", torch.zeros(cameras, MARKS))
        self.register_buffer("bias", torch.full((cameras,), NEVER))

    def marks(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 194) marks of normalised images (B, 3, H, W)."""
        pixels = x.float()
        # Plain numbers, in an exported graph as well, whose input has one size.
        down, across = (int(side) // least for side, least in zip(x.shape[2:], SIZE, strict=True))
        if (down * SIZE[0], across * SIZE[1]) == tuple(pixels.shape[2:]):
            pixels = F.avg_pool2d(pixels, (down, across))
        else:
            pixels = F.interpolate(pixels, SIZE, mode="bilinear")
        pixels = pixels * self.norm_std[:, None, None] + self.norm_mean[:, None, None]
        answers = F.conv2d(F.avg_pool2d(pixels, 2), self.filters, stride=2).relu().flatten(2)
        spread = [(answers.mean(2) + 1e-4).log(), (_std(answers) + 1e-4).log()]
        return torch.cat([_colours(pixels), *spread], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,) numbers of the cameras that normalised images (B, 3, H, W) look like.

        −1 before anything was learned.
        """
        found = F.linear(self.marks(x) - self.centre, self.weight, self.bias).argmax(1)
        return torch.where(self.bias.max() > NEVER, found, torch.full_like(found, -1))

    def learn(self, marks: NDArray[np.float32], camids: NDArray[np.int64]) -> None:
        """Learns from the marks (N, 194) of images whose cameras (N,) are known.

        Logistic regression on standardised marks. A camera without images is never guessed.
        """
        present = np.unique(camids)
        centre, scale = marks.mean(0), marks.std(0) + 1e-6
        self.bias.fill_(NEVER)
        self.centre.copy_(torch.from_numpy(centre))
        if len(present) == 1:
            self.bias[present] = 0.0
            return
        with threadpool_limits(1):  # the order of sums, and so the last bits, hangs on threads
            found = LogisticRegression(C=0.1, max_iter=300).fit((marks - centre) / scale, camids)
        weight, bias = found.coef_, found.intercept_
        if len(present) == 2:  # one row, of the second camera
            weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0.0, bias[0]])
        self.weight[present] = torch.from_numpy(weight / scale).to(self.weight)
        self.bias[present] = torch.from_numpy(bias).to(self.bias)
