"""The smallest network with two parts, for tests of checkpoints."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Two children and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)


def net(seed: int, width: int = 3) -> Net:
    """A network with the random weights of ``seed``."""
    torch.manual_seed(seed)
    return Net(width)
