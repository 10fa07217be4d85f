"""One batch in several processes, learned from as one process learns from it.

Each rank sends its share of a batch's rows through the network. What comes out is gathered, so
that every rank computes the loss of the whole batch; its gradient goes back through a rank's own
rows, and the sum over the ranks is the whole batch's. Batch norm takes its moments over all
ranks, or, where cameras have their own, each camera's rows stay together in one rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embae_plugin import distributed
from embae_plugin.models.camera_norm import CameraNorm


class Share:
    """Which of a batch's ``count`` rows each rank takes.

    Args:
        groups: (count,) rows of equal number stay together, so that a rank may have none; None
            gives each rank as many as the others, or one more or less.
        alone: this process takes all.

    Raises:
        ValueError: there are no groups, and fewer than two rows for each rank.
    """

    def __init__(
        self, count: int, groups: torch.Tensor | None = None, alone: bool = False
    ) -> None:
        self.count, self.alone = count, alone or distributed.size() == 1
        rank, rows = distributed.rank(), torch.arange(count)
        if self.alone:
            self.mine = rows
        elif groups is None:
            if count < 2 * distributed.size():
                raise ValueError(f"{distributed.size()} processes share a batch of {count} images, "
                                 "fewer than two each: start fewer, or set a larger batch size")
            self.mine = rows[slice(*distributed.shards(count)[rank])]
        else:
            _, group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
            hand = torch.tensor(distributed.deal(sizes.tolist())[rank], dtype=torch.long)
            self.mine = rows[torch.isin(group, hand)]

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's rows of (count, …)."""
        if self.alone:
            return rows
        channels_last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)
        mine = rows[self.mine.to(rows.device)]
        return mine.contiguous(memory_format=torch.channels_last) if channels_last else mine

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        """All rows (count, …) of what ranks made of theirs, in order; own ones with their graph."""
        if self.alone:
            return mine
        where = self.mine.to(mine.device)
        whole = mine.new_zeros(self.count, *mine.shape[1:]).index_copy(0, where, mine.detach())
        return distributed.add_up(whole).index_copy(0, where, mine)


@contextmanager
def together(
    modules: Sequence[nn.Module], parameters: Iterable[nn.Parameter], alone: bool = False
) -> Iterator[None]:
    """Batch norm's moments are taken over all ranks in the block, and gradients summed behind it.

    Args:
        modules: those that learn; after the block they have learned what one process would.
        parameters: whose gradients the block leaves.
        alone: the ranks do the same work, and there is nothing to sum.
    """
    if alone or distributed.size() == 1:
        yield
        return
    layers = [m for part in modules for m in part.modules() if isinstance(m, _BatchNorm)]
    for layer in layers:
        vars(layer)["forward"] = MethodType(_over_ranks, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
    _sum_gradients(list(parameters))


@torch.no_grad()
def _sum_gradients(parameters: list[nn.Parameter]) -> None:
    """A rank without rows has none, so each says which it has; those that nobody has stay None."""
    grads = [p.grad for p in parameters]
    has = parameters[0].new_tensor([grad is not None for grad in grads])
    flat = torch.cat([has, *(
        (torch.zeros_like(p) if grad is None else grad).reshape(-1)
        for p, grad in zip(parameters, grads, strict=True)
    )])
    distributed.add_up(flat)
    found = flat[: len(has)].tolist()
    parts = torch.split(flat[len(has) :], [p.numel() for p in parameters])
    for parameter, part, count in zip(parameters, parts, found, strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(part.view_as(parameter))


class _Sum(torch.autograd.Function):
    """The sum over ranks; so is the gradient, since each rank follows it through its own rows."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor) -> torch.Tensor:
        """See :class:`_Sum`."""
        return distributed.add_up(mine.clone())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """See :class:`_Sum`."""
        return distributed.add_up(grads[0].clone())


def _over_ranks(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """What a batch norm, perhaps timm's with an activation, makes of all ranks' (B, D, …)."""
    if not layer.training:
        return type(layer).forward(layer, x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)
    count = torch.full_like(mean, wide.numel() / wide.shape[1])
    table = mean.new_zeros(distributed.size(), 3, len(mean))
    own = torch.tensor([distributed.rank()], device=x.device)
    rows = torch.stack([count, mean, var])[None]
    count, mean, var = cast(torch.Tensor, _Sum.apply(table.index_copy(0, own, rows))).unbind(1)
    share = count / count.sum(0)
    middle = (share * mean).sum(0)
    spread = (share * (var + (mean - middle).square())).sum(0)
    if layer.running_mean is not None and layer.running_var is not None:
        with torch.no_grad():
            momentum, total = layer.momentum or 0.1, count.sum(0)
            layer.running_mean.lerp_(middle, momentum)
            layer.running_var.lerp_(spread * total / (total - 1).clamp(min=1), momentum)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += 1
    shape = (1, -1, *[1] * (x.ndim - 2))
    out = (wide - middle.view(shape)) * torch.rsqrt(spread + layer.eps).view(shape)
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    act = cast(nn.Module, getattr(layer, "act", nn.Identity()))
    return cast(torch.Tensor, act(out.to(x.dtype)))


@torch.no_grad()
def send_statistics(
    layers: Sequence[CameraNorm], mine: Iterable[int], cameras: Iterable[int]
) -> None:
    """Gives every rank the statistics of ``cameras`` from the rank that has moved them, bit by bit.

    Args:
        mine: the cameras that this rank has moved, which no other has.
        cameras: those that any has.
    """
    rows, own = sorted({*cameras}), {*mine}
    if distributed.size() == 1 or not rows or not layers:
        return
    device = layers[0].running_mean.device
    held = torch.tensor([[row in own] for row in rows], device=device)
    index = torch.tensor(rows, device=device)
    tables = [table for layer in layers for table in (layer.running_mean, layer.running_var)]
    flat = torch.cat([torch.where(held, table[index], 0).reshape(-1) for table in tables])
    parts = torch.split(distributed.add_up(flat), [len(rows) * t.shape[1] for t in tables])
    for table, part in zip(tables, parts, strict=True):
        table[index] = part.view(len(rows), -1)
