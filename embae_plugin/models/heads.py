"""A bank of dense heads, one for each camera or dataset, computed together (paper 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from embae_plugin.models.dense import (
    EPS,
    MOMENTUM,
    Decoder,
    DenseHead,
    checked_order,
    in_weight_precision,
    uniform_,
)
from embae_plugin.models.grouping import Tiles, tile_groups
from embae_plugin.models.stacking import Index, chosen, stacked, unstacked

__all__ = ["Decoder", "DenseHead", "HeadBank"]


class HeadBank(nn.Module):
    """``num_heads`` heads like :class:`DenseHead`, one for each group (camera, dataset).

    They are stored stacked and computed together by batched products, whatever their number.
    Values, gradients and running statistics are those of separate heads. In a training batch, a
    group of one row is treated as :class:`DenseHead` treats such a batch; the head of an absent
    group stays as it is, and its gradient is zero.

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
        self,
        num_heads: int,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        order: str = "relu_bn",
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
        for parameter in (self.fc1_weight, self.fc1_bias):
            uniform_(parameter, self.in_dim**-0.5, generator)
        for parameter in (self.fc2_weight, self.fc2_bias):
            uniform_(parameter, self.hidden_dim**-0.5, generator)
        self.bn_weight.fill_(1.0)
        self.bn_bias.zero_()
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        self.num_batches_tracked.zero_()

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.fc1_weight.dtype

    def extra_repr(self) -> str:
        """Shown by ``repr``."""
        sizes = f"{self.in_dim} -> {self.hidden_dim} -> {self.out_dim}"
        return f"{self.num_heads} x ({sizes}), order={self.order!r}"

    @in_weight_precision
    def forward(self, h: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """Each row through its group's head; groups of any size, absent ones too.

        Args:
            h: (B, in_dim).
            group: (B,) integers, the head of each row. It is read on the host; where the groups
                are equal and in order, :meth:`forward_grouped` needs no such synchronisation.

        Returns:
            (B, out_dim).

        Raises:
            ValueError: shapes that do not fit, or a group that has no head.
        """
        if h.ndim != 2 or h.shape[1] != self.in_dim or group.shape != h.shape[:1]:
            raise ValueError(
                f"a bank of heads takes h (B, {self.in_dim}) and group (B,), not "
                f"{tuple(h.shape)} and {tuple(group.shape)}"
            )
        if group.is_floating_point() or group.dtype == torch.bool:
            raise ValueError(f"group must hold integers, not {group.dtype}")
        if len(h) == 0:
            return self.fc2_bias.index_select(0, group.long())
        tiles = tile_groups(group, self.num_heads, may_split=not self.training)
        return tiles.gather(self._forward_tiles(tiles.scatter(h), tiles))

    @in_weight_precision
    def forward_grouped(self, h: torch.Tensor) -> torch.Tensor:
        """A balanced batch, (G, n, in_dim) to (G, n, out_dim), h[g] through head g.

        Raises:
            ValueError: the shape does not fit.
        """
        if h.ndim != 3 or h.shape[0] != self.num_heads or h.shape[2] != self.in_dim:
            raise ValueError(
                f"a balanced batch for this bank is (G = {self.num_heads} heads, n, "
                f"{self.in_dim}), not {tuple(h.shape)}"
            )
        return self._forward_tiles(h, None)

    def _forward_tiles(self, h: torch.Tensor, tiles: Tiles | None) -> torch.Tensor:
        """(T, n, in_dim) to (T, n, out_dim); without ``tiles``, tile g is group g and full."""
        index = None if tiles is None or tiles.identity else tiles.group

        def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return torch.baddbmm(chosen(bias, index).unsqueeze(1), x, chosen(weight, index))

        hidden = linear(h, self.fc1_weight, self.fc1_bias)
        hidden = F.relu(hidden) if self.order == "relu_bn" else hidden
        if not self.training or h.shape[1] < 2:
            mean, var = chosen(self.running_mean, index), chosen(self.running_var, index)
            hidden = self._affine(hidden, mean, var, index)
        elif tiles is None or tiles.full:
            hidden = self._normalise_full(hidden, index)
        else:
            hidden = self._normalise_padded(hidden, index, tiles.filled)
        hidden = F.relu(hidden) if self.order == "bn_relu" else hidden
        return linear(hidden, self.fc2_weight, self.fc2_bias)

    def _affine(
        self, hidden: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, index: Index
    ) -> torch.Tensor:
        """Batch norm by given (T, hidden_dim) moments, with each tile's weight and bias."""
        scale = chosen(self.bn_weight, index) * torch.rsqrt(var + EPS)
        shift = chosen(self.bn_bias, index) - mean * scale
        return torch.addcmul(shift.unsqueeze(1), hidden, scale.unsqueeze(1))

    def _normalise_full(self, hidden: torch.Tensor, index: Index) -> torch.Tensor:
        """Batch norm of each tile by its own moments, as one native batch norm of T·D units."""
        tiles, rows, width = hidden.shape
        mean, var = chosen(self.running_mean, index), chosen(self.running_var, index)
        normalised = F.batch_norm(
            hidden.transpose(0, 1).reshape(rows, tiles * width),
            mean.view(-1),
            var.view(-1),
            chosen(self.bn_weight, index).view(-1),
            chosen(self.bn_bias, index).view(-1),
            training=True,
            momentum=MOMENTUM,
            eps=EPS,
        )
        if index is None:
            self.num_batches_tracked.add_(1)
        else:  # mean and var are copies
            self.running_mean.index_copy_(0, index, mean)
            self.running_var.index_copy_(0, index, var)
            self.num_batches_tracked.index_add_(0, index, torch.ones_like(index))
        return normalised.view(rows, tiles, width).transpose(0, 1)

    def _normalise_padded(
        self, hidden: torch.Tensor, index: Index, filled: torch.Tensor
    ) -> torch.Tensor:
        """Batch norm of each tile by the moments of its ``filled`` first rows, if at least two."""
        old_mean, old_var = chosen(self.running_mean, index), chosen(self.running_var, index)
        count = filled.unsqueeze(1).to(hidden.dtype)
        used = torch.arange(hidden.shape[1], device=hidden.device) < filled.unsqueeze(1)
        weight = (used / count.clamp(min=1)).to(hidden.dtype).unsqueeze(1)  # (T, 1, n)
        mean = torch.bmm(weight, hidden)
        var = torch.bmm(weight, (hidden - mean).square()).squeeze(1)
        mean = mean.squeeze(1)

        several = count >= 2
        affine = self._affine(
            hidden, torch.where(several, mean, old_mean), torch.where(several, var, old_var), index
        )
        with torch.no_grad():
            unbiased = var * (count / (count - 1).clamp(min=1))
            new_mean = torch.where(several, old_mean.lerp(mean, MOMENTUM), old_mean)
            new_var = torch.where(several, old_var.lerp(unbiased, MOMENTUM), old_var)
            heads = torch.arange(self.num_heads, device=filled.device) if index is None else index
            self.running_mean.index_copy_(0, heads, new_mean)
            self.running_var.index_copy_(0, heads, new_var)
            self.num_batches_tracked.index_add_(0, heads, several.view(-1).long())
        return affine

    def head(self, index: int) -> DenseHead:
        """A copy of one head, on the same device and in the same mode.

        Raises:
            IndexError: there is no such head.
        """
        if not 0 <= index < self.num_heads:
            raise IndexError(f"no head {index} in a bank of {self.num_heads}")
        throwaway = torch.Generator().manual_seed(0)
        head = DenseHead(self.in_dim, self.hidden_dim, self.out_dim, self.order, throwaway)
        head.to(self.fc1_weight.device, self.fc1_weight.dtype).train(self.training)
        head.load_state_dict(unstacked(self.state_dict(), index))
        return head

    @classmethod
    def from_heads(cls, heads: Sequence[DenseHead]) -> HeadBank:
        """A bank of copies of ``heads``, on the device and in the mode of the first.

        Raises:
            ValueError: no heads, or heads of unequal shapes or orders.
        """
        kinds = {
            (h.fc1.in_features, h.fc1.out_features, h.fc2.out_features, h.order) for h in heads
        }
        if len(kinds) != 1:
            raise ValueError(
                "a bank needs heads of one kind (in, hidden, out, order), got "
                f"{len(heads)} heads of kinds {sorted(kinds)}"
            )
        in_dim, hidden_dim, out_dim, order = kinds.pop()
        throwaway = torch.Generator().manual_seed(0)
        bank = cls(len(heads), in_dim, hidden_dim, out_dim, order, throwaway)
        weight = heads[0].fc1.weight
        bank.to(weight.device, weight.dtype).train(heads[0].training)
        bank.load_state_dict(stacked([head.state_dict() for head in heads]))
        return bank
