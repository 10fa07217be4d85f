"""A bank of dense heads, one for each camera or dataset, computed together (paper 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.dense import EPS, MOMENTUM, checked_order, in_weight_precision, redraw


class HeadBank(nn.Module):
    """``num_heads`` heads like :class:`DenseHead`, one for each group (camera, dataset).

    They are stored stacked. Values, gradients and running statistics are those of separate heads.
    In a training batch, a group of one row is treated as :class:`DenseHead` treats such a batch;
    the head of an absent group stays as it is, and its gradient is zero.

    Args:
        num_heads: G.
        in_dim, hidden_dim, out_dim, order, generator: as for :class:`DenseHead`.

    Raises:
        ValueError: fewer than one head, or an unknown order.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(
        self, num_heads: int, in_dim: int, hidden_dim: int, out_dim: int, order: str = "relu_bn",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"a bank needs at least one head, not {num_heads}")
        self.num_heads, self.order = num_heads, checked_order(order)
        self.in_dim, self.hidden_dim, self.out_dim = in_dim, hidden_dim, out_dim
        # (in, out), the transpose of nn.Linear's: the gradient of a batched product then has the
        # layout of its weight, and a training step takes a quarter of the time on a CPU.
        self.fc1_weight = nn.Parameter(torch.empty(num_heads, in_dim, hidden_dim))
        self.fc1_bias = nn.Parameter(torch.empty(num_heads, hidden_dim))
        self.bn_weight = nn.Parameter(torch.empty(num_heads, hidden_dim))
        self.bn_bias = nn.Parameter(torch.empty(num_heads, hidden_dim))
        self.fc2_weight = nn.Parameter(torch.empty(num_heads, hidden_dim, out_dim))
        self.fc2_bias = nn.Parameter(torch.empty(num_heads, out_dim))
        self.register_buffer("running_mean", torch.empty(num_heads, hidden_dim))
        self.register_buffer("running_var", torch.empty(num_heads, hidden_dim))
        self.register_buffer("num_batches_tracked", torch.empty(num_heads, dtype=torch.long))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights for every head, by the laws of nn.Linear and nn.BatchNorm1d."""
        redraw(self.fc1_weight, self.fc1_bias, self.in_dim, generator)
        redraw(self.fc2_weight, self.fc2_bias, self.hidden_dim, generator)
        for ones in (self.bn_weight, self.running_var):
            ones.fill_(1.0)
        for zeros in (self.bn_bias, self.running_mean, self.num_batches_tracked):
            zeros.zero_()

    @in_weight_precision
    def forward(self, h: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """Each row through its group's head; groups of any size, absent ones too.

        Args:
            h: (B, in_dim).
            group: (B,) integers, the head of each row; it is read on the host.

        Returns:
            (B, out_dim).

        Raises:
            ValueError: shapes that do not fit, or a group that has no head.
        """
        if h.ndim != 2 or h.shape[1] != self.in_dim or group.shape != h.shape[:1]:
            raise ValueError(f"a bank of heads takes h (B, {self.in_dim}) and group (B,), not "
                             f"{tuple(h.shape)} and {tuple(group.shape)}")
        if group.is_floating_point() or group.dtype == torch.bool:
            raise ValueError(f"group must hold integers, not {group.dtype}")
        if not len(h):
            return self.fc2_bias[group.long()]
        order = group.argsort(stable=True)
        found, counts = torch.unique_consecutive(group[order].cpu(), return_counts=True)
        heads = found.tolist()
        if heads[0] < 0 or heads[-1] >= self.num_heads:
            raise ValueError(
                f"group indices must lie in 0..{self.num_heads - 1} for {self.num_heads} heads, "
                f"found {heads[0] if heads[0] < 0 else heads[-1]}; number the cameras densely, "
                "and give the bank one head for each"
            )
        parts = torch.split(h[order], counts.tolist())
        each = [self._through(part[None], n)[0] for n, part in zip(heads, parts, strict=True)]
        return torch.cat(each)[order.argsort()]

    @in_weight_precision
    def forward_grouped(self, h: torch.Tensor) -> torch.Tensor:
        """A balanced batch, (G, n, in_dim) to (G, n, out_dim), h[g] through head g, at once.

        Raises:
            ValueError: the shape does not fit.
        """
        if h.ndim != 3 or h.shape[0] != self.num_heads or h.shape[2] != self.in_dim:
            raise ValueError(f"a balanced batch for this bank is (G = {self.num_heads} heads, n, "
                             f"{self.in_dim}), not {tuple(h.shape)}")
        return self._through(h)

    def _through(self, h: torch.Tensor, head: int | None = None) -> torch.Tensor:
        """(T, n, in_dim) to (T, n, out_dim): through each of the heads, or T = 1 through one."""

        def own(stack: torch.Tensor) -> torch.Tensor:
            return stack if head is None else stack[head : head + 1]

        hidden = torch.baddbmm(own(self.fc1_bias).unsqueeze(1), h, own(self.fc1_weight))
        hidden = F.relu(hidden) if self.order == "relu_bn" else hidden
        mean, var = own(self.running_mean), own(self.running_var)
        weight, bias = own(self.bn_weight), own(self.bn_bias)
        if self.training and h.shape[1] > 1:
            # One native batch norm of T·D units: each group has moments of its own.
            units = hidden.transpose(0, 1).flatten(1)
            moments = mean.view(-1), var.view(-1)
            units = F.batch_norm(units, *moments, weight.view(-1), bias.view(-1), True, MOMENTUM)
            hidden = units.view(h.shape[1], len(h), -1).transpose(0, 1)
            own(self.num_batches_tracked).add_(1)
        else:
            scale = weight * torch.rsqrt(var + EPS)
            shift = bias - mean * scale
            hidden = torch.addcmul(shift.unsqueeze(1), hidden, scale.unsqueeze(1))
        hidden = F.relu(hidden) if self.order == "bn_relu" else hidden
        return torch.baddbmm(own(self.fc2_bias).unsqueeze(1), hidden, own(self.fc2_weight))
